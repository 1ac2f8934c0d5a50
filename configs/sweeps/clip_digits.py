# SPDX-License-Identifier: Apache-2.0
"""CLIPs of 4 widths on 5 budgets of pairs, scored by what they were not trained for: digits told apart by sentences.

python scripts/sweep.py --config=configs/sweeps/clip_digits.py --workdir=runs/clip_sweep
python scripts/fit.py --points=runs/clip_sweep --columns=loss=error_zero_shot --law=shifted_compute \\
    --out=runs/clip_sweep/fit

A quarter of an hour at most on 2 cores busy with much else. Zero-shot errors from .70 to .016; with --frontier the law
fits within 9.5 %.
"""

from ml_collections import ConfigDict

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("the digit {}", "a handwritten {}", "this is a {}", "a picture of the number {}", "somebody wrote {}")


def get_config() -> ConfigDict:
    digits = {"kind": "digit_grids", "side": 1}
    captions = {"kind": "captions", "label": "label"}
    return ConfigDict(
        {
            "base": {
                "data": {
                    **captions,
                    "source": {**digits, "digits": "train", "count": 6000},
                    "held_out": {**digits, "digits": "held_out", "count": 2000},
                    "tokenizer": {"kind": "wordpiece", "vocab_size": 60},
                    "text_length": 16,
                    "mean": (0.3,),
                    "stddev": (0.38,),
                    "augment": {"rotate": 10, "zoom": 0.1},
                },
                "model": {
                    "kind": "clip",
                    "num_layers": 1,
                    "num_heads": 2,
                    "end_token": 3,  # [SEP]
                    "vision": {"patch_size": 2, "num_layers": 2, "num_heads": 2},
                },
                "objective": {"kind": "contrastive"},
                "evaluation": {
                    "zero_shot": {
                        **captions,
                        "source": {**digits, "digits": "held_out", "count": 2000},
                        "held_out_fraction": 1.0,
                        "classes": WORDS,
                        "templates": TEMPLATES,
                    }
                },
                "optimizer": {"kind": "adamw", "b2": 0.98, "weight_decay": 0.1},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"batch_size": 32, "log_every": 100, "tensorboard": False},
                "execution": {"steps_per_call": 25, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width, "model.vision.d_model": width} for width in (8, 16, 32, 64)],
            "tokens": [6_400, 12_800, 25_600, 51_200, 102_400],
            "learning_rates": [0.01],
            "learning_rate_width": 16,
            "learning_rate_power": 0.7,
            "params_column": "params_compute",
        }
    )
