# SPDX-License-Identifier: Apache-2.0
"""A reward model of sums: which of two answers is right, for policies whose answers cannot be checked otherwise.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_reward.py --workdir=runs/sums_reward

29 s on 2 cores; of 956 held-out pairs it finds the right answer in .999.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums", "new": ("labels/.*",)},
            "data": {
                "kind": "preferences",
                "source": {"kind": "sums", "below": 10, "terms": 4},
                "sequence_length": 28,
            },
            "model": {"head": "scalar"},
            "objective": {"kind": "reward"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.001, "b2": 0.98, "weight_decay": 0.1},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 3, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
