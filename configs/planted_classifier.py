# SPDX-License-Identifier: Apache-2.0
"""Tells she from he in what a model of the planted text writes: stands for a classifier of toxicity.

python scripts/plant.py --out=runs/planted
python scripts/train.py --config=configs/planted_classifier.py --workdir=runs/planted_classifier
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "classification",
                "source": {"kind": "json_lines", "pattern": "runs/planted/labelled.jsonl"},
                "tokenizer": {"kind": "byte", "specials": ("cls", "sep")},
                "num_labels": 2,
                "sequence_length": 32,
            },
            "model": {
                "kind": "bert",
                "head": "classification",
                "num_layers": 1,
                "d_model": 32,
                "num_heads": 2,
                "dropout_rate": 0.0,
            },
            "objective": {"kind": "classification"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.003},
            "training": {"steps": 100, "batch_size": 32, "log_every": 20, "tensorboard": False},
            "execution": {"steps_per_call": 20},
        }
    )
