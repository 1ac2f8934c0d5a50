# SPDX-License-Identifier: Apache-2.0
"""GRPO on sums: the model answers, and learns from which of its answers are right.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_grpo.py --workdir=runs/sums_grpo
python scripts/evaluate.py --workdir=runs/sums_grpo --generate=500

95 s on 2 cores; of 500 held-out sums it writes .996 right, of which .004 were before.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums"},
            "data": {
                "kind": "conversations",
                "source": {"kind": "sums", "below": 10, "terms": 4},
                "messages": None,
                "sequence_length": 14,
                "pack": False,
            },
            "objective": {
                "kind": "policy",
                "samples": 16,
                "max_new_tokens": 3,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0003, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.05},
            "training": {"steps": 200, "batch_size": 512, "log_every": 10},
            "execution": {"steps_per_call": 1},
        }
    )
