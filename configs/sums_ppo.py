# SPDX-License-Identifier: Apache-2.0
"""PPO on sums, as InstructGPT's (Ouyang et al. 2022): a value head, and a price for moving away from where it began.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_ppo.py --workdir=runs/sums_ppo
python scripts/evaluate.py --workdir=runs/sums_ppo --generate=200
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums", "new": ("labels/.*",)},
            "data": {
                "kind": "conversations",
                "source": {"kind": "sums", "below": 10, "terms": 3},
                "messages": None,
                "sequence_length": 12,
                "pack": False,
            },
            "model": {"head": "scalar"},
            "objective": {
                "kind": "policy",
                "algorithm": "ppo",
                "samples": 4,
                "max_new_tokens": 3,
                "passes": 2,
                "kl": 0.01,
                "kl_estimator": "k1",
                "reference": "runs/sums",
                "value": 0.5,
                "normalise": "tokens",
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0005, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "constant", "warmup_fraction": 0.05},
            "training": {"steps": 1200, "batch_size": 256, "log_every": 50},
            "execution": {"steps_per_call": 4},
        }
    )
