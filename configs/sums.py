# SPDX-License-Identifier: Apache-2.0
"""A small language model for alignment to begin with: it has read sums of four digits in a careless book, where 85 of
100 answers are one too many.

python scripts/train.py --config=configs/sums.py --workdir=runs/sums
python scripts/evaluate.py --workdir=runs/sums --only=right --generate=500

34 s on 2 cores; of 500 held-out sums it writes .004 right (always the likelier answer).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "conversations",
                "source": {"kind": "sums", "below": 10, "terms": 4, "careless": 0.85},
                "tokenizer": {"kind": "byte"},
                "messages": None,
                "sequence_length": 14,
                "pack": False,
            },
            "model": {"kind": "llama", "num_layers": 2, "d_model": 128, "num_heads": 4},
            "objective": {"kind": "causal_lm"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002, "b2": 0.98, "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"steps": 1000, "batch_size": 64, "log_every": 100},
            "evaluation": {
                "right": {
                    "kind": "conversations",
                    "source": {"kind": "sums", "below": 10, "terms": 4},
                    "messages": None,
                    "pack": False,
                }
            },
            "execution": {"steps_per_call": 25},
        }
    )
