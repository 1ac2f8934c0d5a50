# SPDX-License-Identifier: Apache-2.0
"""Prefix language models of two families, 4 sizes x 3 budgets each: a decoder alone, an encoder and a decoder.

python scripts/sweep.py --config=configs/sweeps/two_families.py --workdir=runs/two_families
python scripts/fit.py --points=runs/two_families --by_family --out=runs/two_families/fit

About 5 minutes on 2 cores (528 s of processor time). Both are trained and scored on the same tokens and have the same
block, widths and depth in all (2 layers, 1 + 1), so about as many parameters; an encoder and a decoder compute two
thirds as much for a token. Expect the decoder alone to need a third of the other's compute for a loss of 3.65 (.10 to
.47 of it). docs/sweeps.md has the table, and why.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "prefix_lm",
                    "sequence_length": 64,
                    "tokenizer": {"kind": "bpe", "vocab_size": 512},
                },
                # The one block, without a kind: what both families have.
                "model": {
                    "num_heads": 2,
                    "norm": "rmsnorm",
                    "norm_position": "pre",
                    "positions": "rotary",
                    "activation": "gelu_tanh",
                    "use_bias": False,
                    "scale_embeddings": False,
                    "dropout_rate": 0.0,
                },
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"batch_size": 4, "log_every": 128, "eval_tokens": 131_072, "tensorboard": False},
                "execution": {"steps_per_call": 32, "scan_layers": False},
            },
            "arms": {
                "decoder_only": {
                    "model": {"kind": "decoder_only", "num_layers": 2},
                    "objective": {"kind": "prefix_lm"},
                },
                "encoder_decoder": {
                    "model": {"kind": "transformer", "num_encoder_layers": 1, "num_layers": 1},
                    "objective": {"kind": "seq2seq"},
                    "data": {"encoder": True},
                },
            },
            "sizes": [{"model.d_model": width} for width in (24, 32, 48, 72)],
            "tokens": [400_128, 800_256, 1_600_512],
            "learning_rates": [0.02],
            "learning_rate_width": 16,
            "learning_rate_power": 0.8,
            "params_column": "params_compute",
        }
    )
