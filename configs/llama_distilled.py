# SPDX-License-Identifier: Apache-2.0
"""A LLaMA of two layers that begins with two of its teacher's four and learns from it, on the Python library's source.

python scripts/train.py --config=configs/llama_python.py --config.model.num_layers=4 --workdir=runs/teacher
python scripts/train.py --config=configs/llama_distilled.py --workdir=runs/llama_distilled

28 s of processor time on 2 cores busy with much else, all in; held-out loss 3.698 +- .018 nats a token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "teacher": {"path": "runs/teacher", "temperature": 1.0, "soft": 0.9, "hard": 0.1},
            "init_from": {"path": "runs/teacher", "layers": [1, 3]},
            "data": {"kind": "language_model", "sequence_length": 128},
            "optimizer": {"kind": "adamw", "learning_rate": 0.005, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.02, "final_fraction": 0.1},
            "training": {"tokens": 262_144, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
