# SPDX-License-Identifier: Apache-2.0
"""LLaVA on grids of four handwritten digits, second stage: questions about them, the encoder frozen.

It begins with what `configs/llava_digits_1.py` has made, with its tokenizer:

python scripts/train.py --config=configs/llava_digits.py --workdir=runs/llava_digits
python scripts/evaluate.py --workdir=runs/llava_digits --generate=300

304 s on 2 cores busy with much else, all in; held-out loss 0.282, 59 % of answers right: which digit is where,
whether it is even, and what all come to.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/llava_digits_1"},
            "tuning": {"kind": "partial", "train": ("(projector|decoder|token_embedding|logits)/.*",)},
            "data": {
                "kind": "visual_question",
                "source": {"kind": "digit_grids", "count": 8000, "digits": "train", "seed": 2},
                "held_out": {"kind": "digit_grids", "count": 500, "digits": "held_out", "seed": 3},
                "answer_length": 5,
                "image_size": 16,
                "sequence_length": 64,
                "mean": (0.3,),
                "stddev": (0.38,),
                "augment": {"shift": 1, "rotate": 10, "zoom": 0.1},
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.001, "b2": 0.98, "weight_decay": 0.05},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 5, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
