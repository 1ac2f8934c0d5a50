# SPDX-License-Identifier: Apache-2.0
"""Does the best learning rate stay where it is when models get wider? Two parametrisations, four widths, five rates.

python scripts/sweep.py --config=configs/sweeps/mup.py --workdir=runs/mup

About 3 minutes on 2 cores. Expect the best rate to fall with the width in the arm `standard`, and to stay in `mup`;
docs/sweeps.md has the table.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "language_model",
                    "source": {"kind": "python_docstrings"},
                    "sequence_length": 16,
                    "tokenizer": {"kind": "bpe", "vocab_size": 512},
                },
                "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 4, "positions": "relative"},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "wsd", "warmup_steps": 200},
                "training": {"batch_size": 16, "log_every": 512, "eval_tokens": 131_072, "tensorboard": False},
                "execution": {"steps_per_call": 64, "scan_layers": False},
            },
            "arms": {"standard": {}, "mup": {"parametrisation": {"kind": "mup", "base": {"d_model": 16}}}},
            "sizes": [{"model.d_model": width} for width in (16, 32, 64, 128)],
            "tokens": [350_208],
            "learning_rates": [0.0075, 0.015, 0.03, 0.06, 0.12],
        }
    )
