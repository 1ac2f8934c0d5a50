# SPDX-License-Identifier: Apache-2.0
"""DPO on sums (Rafailov et al. 2023): pairs of answers of which the first is right. The reference is the model itself
without its LoRA.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_dpo.py --workdir=runs/sums_dpo
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums"},
            "tuning": {"kind": "lora", "rank": 16},
            "data": {
                "kind": "preferences",
                "source": {"kind": "sums", "below": 10, "terms": 3},
                "sequence_length": 24,
            },
            "objective": {"kind": "preference", "loss": "dpo", "beta": 0.3},
            "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 20, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
