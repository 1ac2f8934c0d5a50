# SPDX-License-Identifier: Apache-2.0
"""ViTs of 5 widths on 5 budgets of images: handwritten digits, turned, shifted and zoomed at random.

python scripts/sweep.py --config=configs/sweeps/vit_digits.py --workdir=runs/vit_sweep
python scripts/fit.py --points=runs/vit_sweep --law=shifted_compute --out=runs/vit_sweep/fit

Four minutes on 2 cores busy with much else. Losses from 1.48 to .08; with --frontier the law leaves E = .077.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "image_classification",
                    "source": {"kind": "digits"},
                    "num_labels": 10,
                    "held_out_fraction": 0.3,
                    "mean": (0.3,),
                    "stddev": (0.38,),
                    "augment": {"rotate": 10, "zoom": 0.1, "erase": 0.3},
                },
                "model": {"kind": "vit", "patch_size": 2, "num_layers": 2, "num_heads": 2},
                "objective": {"kind": "classification"},
                "optimizer": {"kind": "adamw", "b2": 0.98, "weight_decay": 0.05},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"batch_size": 32, "log_every": 100, "tensorboard": False},
                "execution": {"steps_per_call": 25, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (8, 16, 24, 40, 64)],
            "tokens": [4_000, 8_000, 16_000, 32_000, 64_000],
            "learning_rates": [0.01],
            "learning_rate_width": 16,
            "learning_rate_power": 0.7,
            "params_column": "params_compute",
        }
    )
