# SPDX-License-Identifier: Apache-2.0
"""PPO on sums, as InstructGPT's (Ouyang et al. 2022): a value head, and a price for moving away from where it began.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_ppo.py --workdir=runs/sums_ppo
python scripts/evaluate.py --workdir=runs/sums_ppo --generate=500

103 s on 2 cores; of 500 held-out sums it writes .994 right, of which .004 were before.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums", "new": ("labels/.*",)},
            "data": {
                "kind": "conversations",
                "source": {"kind": "sums", "below": 10, "terms": 4},
                "messages": None,
                "sequence_length": 14,
                "pack": False,
            },
            "model": {"head": "scalar"},
            "objective": {
                "kind": "policy",
                "algorithm": "ppo",
                "samples": 2,
                "max_new_tokens": 3,
                "passes": 1,
                "kl": 0.01,
                "kl_estimator": "k1",
                "reference": "runs/sums",
                "value": 0.5,
                "normalise": "tokens",
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0003, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.05},
            "training": {"steps": 200, "batch_size": 512, "log_every": 10},
            "execution": {"steps_per_call": 1},
        }
    )
