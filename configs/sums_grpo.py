# SPDX-License-Identifier: Apache-2.0
"""GRPO on sums: the model answers, and learns from which of its answers are right.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_grpo.py --workdir=runs/sums_grpo
python scripts/evaluate.py --workdir=runs/sums_grpo --generate=200
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums"},
            "data": {
                "kind": "conversations",
                "source": {"kind": "sums", "below": 10, "terms": 3},
                "messages": None,
                "sequence_length": 12,
                "pack": False,
            },
            "objective": {
                "kind": "policy",
                "samples": 8,
                "max_new_tokens": 3,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.001, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "constant", "warmup_fraction": 0.05},
            "training": {"steps": 300, "batch_size": 256, "log_every": 20},
            "execution": {"steps_per_call": 2},
        }
    )
