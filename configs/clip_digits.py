# SPDX-License-Identifier: Apache-2.0
"""CLIP on scikit-learn's handwritten digits and sentences about them, as "somebody wrote seven".

python scripts/train.py --config=configs/clip_digits.py --workdir=runs/clip_digits
python scripts/evaluate.py --workdir=runs/clip_digits --zero_shot=zero,one,two,three,four,five,six,seven,eight,nine \
    --templates="the digit {}|a handwritten {}|this is a {}|a picture of the number {}|somebody wrote {}" --recall=1,5

87 s on 2 cores busy with much else, all in; held-out loss 1.490 of batches of 32, and in 9 s more a zero-shot accuracy
of .946: of 1,211 pairs with digits that were never trained on, whose classes are known from sentences alone.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    digits = {"kind": "digit_grids", "side": 1, "count": 6000}
    return ConfigDict(
        {
            "data": {
                "kind": "captions",
                "source": {**digits, "digits": "train"},
                "held_out": {**digits, "digits": "held_out", "count": 2000},
                "tokenizer": {"kind": "wordpiece", "vocab_size": 60},
                "text_length": 16,
                "label": "label",
                "image_size": 8,
                "mean": (0.3,),
                "stddev": (0.38,),
                "augment": {"shift": 1},
            },
            "model": {
                "kind": "clip",
                "num_layers": 1,
                "d_model": 32,
                "num_heads": 4,
                "end_token": 3,  # [SEP]
                "projection_dim": 32,
                "vision": {"patch_size": 2, "num_layers": 3, "d_model": 64, "num_heads": 4},
            },
            "objective": {"kind": "contrastive"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.98, "weight_decay": 0.2},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 20, "batch_size": 32, "log_every": 100},
            "execution": {"steps_per_call": 25},
        }
    )
