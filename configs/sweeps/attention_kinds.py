# SPDX-License-Identifier: Apache-2.0
"""Kinds of attention compared at equal compute: causal language models of 3 sizes x 3 budgets for each.

python scripts/sweep.py --config=configs/sweeps/attention_kinds.py --workdir=runs/attention_kinds
python scripts/fit.py --points=runs/attention_kinds --by_family --out=runs/attention_kinds/fit

All arms have the same block and read the same windows of 256 tokens; `params` is a sixth of the exact FLOPs of a token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    kinds = {
        "softmax": None,
        "window": {"kind": "streaming", "window": 32, "sinks": 4},
        "sparse_transformer": {"kind": "sparse_transformer", "stride": 16, "combine": "layers"},
        "linear": {"kind": "linear"},
    }
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "language_model",
                    "sequence_length": 256,
                    "tokenizer": {"kind": "bpe", "vocab_size": 512},
                },
                "model": {"kind": "decoder_only", "num_layers": 2, "num_heads": 2, "positions": "rotary"},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"batch_size": 2, "log_every": 128, "eval_tokens": 131_072, "tensorboard": False},
                "execution": {"steps_per_call": 32, "scan_layers": False},
            },
            "arms": {name: {"model": {"attention": kind}} for name, kind in kinds.items()},
            "sizes": [{"model.d_model": width} for width in (24, 40, 64)],
            "tokens": [400_384, 800_768, 1_600_512],
            "learning_rates": [0.02],
            "learning_rate_width": 16,
            "learning_rate_power": 0.8,
            "params_column": "params_compute",
        }
    )
