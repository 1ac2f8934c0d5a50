# SPDX-License-Identifier: Apache-2.0
"""Two-layer Transformers on strings of the random hierarchy model, whose entropy is known in closed form.

python scripts/sweep.py --config=configs/sweeps/hierarchy.py --workdir=runs/hierarchy
python scripts/fit.py --points=runs/hierarchy --out=runs/hierarchy/fit

About 4 minutes on 2 cores. Expect E = 1.51 (1.25 to 1.57) beside the exact 1.434, and a residual of 1.4 %.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "hierarchy",
                    "sequence_length": 16,
                    "num_symbols": 16,
                    "num_rules": 4,
                    "depth": 3,
                    "rule_exponent": 1.0,
                },
                "model": {"kind": "decoder_only", "num_layers": 2, "num_heads": 2},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "linear", "warmup_fraction": 0.1},
                "training": {"batch_size": 16, "log_every": 512, "eval_tokens": 65536, "tensorboard": False},
                "execution": {"steps_per_call": 128, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (8, 12, 16, 24, 32, 48)],
            "tokens": [262_144, 524_288, 1_048_576, 2_097_152],
            "learning_rates": [0.01],
            "learning_rate_width": 16,
            "params_column": "params_total",
        }
    )
