# SPDX-License-Identifier: Apache-2.0
"""A decoder that draws handwritten digits: their class, then a code for each patch of 2 x 2 pixels.

python scripts/train.py --config=configs/digit_tokens.py --workdir=runs/digit_tokens
python scripts/generate_images.py --checkpoint=runs/digit_tokens --features=runs/vit_digits --out=runs/digits.png

A minute on 2 cores; held-out loss 2.067 a code, of which there are 128.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "image_tokens",
                "source": {"kind": "digits"},
                "num_labels": 10,
                "patch_size": 2,
                "codes": 128,
                "held_out_fraction": 0.2,
            },
            "model": {
                "kind": "decoder_only",
                "num_layers": 3,
                "d_model": 64,
                "num_heads": 4,
                "positions": "learned",
                "max_length": 17,  # the class, and 16 codes
                "dropout_rate": 0.2,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.98, "weight_decay": 0.1},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 25, "batch_size": 32, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
