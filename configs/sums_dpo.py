# SPDX-License-Identifier: Apache-2.0
"""DPO on sums (Rafailov et al. 2023): pairs of answers of which the first is right. The reference is the model itself
without its LoRA.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_dpo.py --workdir=runs/sums_dpo

46 s on 2 cores; of 956 held-out pairs the right answer has gained on the other in all, and of 500 sums it writes all
right. Without `sft` the first holds, too, but answers that nobody had compared gained most: .004 right.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/sums"},
            "tuning": {"kind": "lora", "rank": 16},
            "data": {
                "kind": "preferences",
                "source": {"kind": "sums", "below": 10, "terms": 4},
                "sequence_length": 28,
            },
            "objective": {"kind": "preference", "loss": "dpo", "beta": 0.3, "sft": 1.0},
            "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 3, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
