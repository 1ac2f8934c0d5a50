# SPDX-License-Identifier: Apache-2.0
"""A small language model that has seen a few sums, to begin alignment with: it seldom is right.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/evaluate.py --workdir=runs/sums --generate=200
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "conversations",
                "source": {"kind": "sums", "below": 10, "terms": 3},
                "tokenizer": {"kind": "byte"},
                "messages": None,
                "sequence_length": 12,
                "pack": False,
            },
            "model": {"kind": "llama", "num_layers": 2, "d_model": 128, "num_heads": 4},
            "objective": {"kind": "causal_lm"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002, "b2": 0.98, "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"steps": 65, "batch_size": 64, "log_every": 25},
            "execution": {"steps_per_call": 25},
        }
    )
