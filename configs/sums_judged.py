# SPDX-License-Identifier: Apache-2.0
"""GRPO on sums by the word of a reward model that has seen few of them, past the point where its word is true.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/train.py --config=configs/sums_reward.py --workdir=runs/sums_judge \
    --config.data.source.count=60 --config.training.epochs=200
python scripts/train.py --config=configs/sums_judged.py --workdir=runs/sums_judged
python scripts/over_optimisation.py --workdir=runs/sums_judged --out=runs/sums_judged/drawn

172 s on 2 cores busy with more: the reward model's mean rises to the end, right answers gain .38 and lose it again.
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
                "reward": "model",
                "reward_model": "runs/sums_judge",
                "samples": 16,
                "max_new_tokens": 3,
                "kl": 0.001,
                "kl_estimator": "k1",  # of the least variance, far away
                "reference": "runs/sums",
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0002, "b2": 0.98, "weight_decay": 0.0},
            "schedule": {"kind": "constant", "warmup_fraction": 0.05},
            "training": {"steps": 200, "batch_size": 512, "log_every": 5},
            "execution": {"steps_per_call": 1},
        }
    )
