# SPDX-License-Identifier: Apache-2.0
"""The main job: one-layer Transformers on the Python library's source, 4 sizes x 4 token budgets.

python scripts/sweep.py --config=configs/sweeps/python.py --workdir=runs/python
python scripts/fit.py --points=runs/python --out=runs/python/fit

About 4 minutes on 2 cores. Expect a residual of 1.7 %, E at its bound of 0 and a warning that says so; docs/sweeps.md
tells why, and how this grid was chosen.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "language_model",
                    "sequence_length": 64,
                    "tokenizer": {"kind": "bpe", "vocab_size": 512},
                },
                "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"batch_size": 4, "log_every": 128, "eval_tokens": 131_072, "tensorboard": False},
                "execution": {"steps_per_call": 32, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (24, 32, 48, 72)],
            "tokens": [500_224, 800_000, 1_280_000, 2_048_000],
            "learning_rates": [0.03],
            "learning_rate_width": 16,
            "learning_rate_power": 0.8,
            "params_column": "params_nonembedding",
        }
    )
