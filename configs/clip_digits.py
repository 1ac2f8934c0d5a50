# SPDX-License-Identifier: Apache-2.0
"""CLIP on scikit-learn's handwritten digits and sentences about them, as "somebody wrote seven".

python scripts/train.py --config=configs/clip_digits.py --workdir=runs/clip_digits
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    digits = {"kind": "digit_grids", "side": 1, "count": 6000}
    return ConfigDict(
        {
            "data": {
                "kind": "captions",
                "source": {**digits, "digits": "train"},
                "held_out": {**digits, "digits": "held_out"},
                "tokenizer": {"kind": "wordpiece", "vocab_size": 60},
                "text_length": 16,
                "label": "label",
                "image_size": 8,
                "mean": (0.3,),
                "stddev": (0.38,),
                "augment": {"shift": 1, "rotate": 10, "zoom": 0.1},
            },
            "model": {
                "kind": "clip",
                "num_layers": 2,
                "d_model": 32,
                "num_heads": 4,
                "end_token": 3,  # [SEP]
                "projection_dim": 32,
                "vision": {"patch_size": 2, "num_layers": 3, "d_model": 48, "num_heads": 4},
            },
            "objective": {"kind": "contrastive"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002, "b2": 0.98, "weight_decay": 0.05},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 16, "batch_size": 64, "log_every": 100},
            "execution": {"steps_per_call": 25},
        }
    )
