# SPDX-License-Identifier: Apache-2.0
"""A student of half its teacher's depth, on the Python library's source: by itself, taught, and begun as half of it.

python scripts/train.py --config=configs/llama_python.py --config.model.num_layers=4 --workdir=runs/teacher
python scripts/sweep.py --config=configs/sweeps/distillation.py --workdir=runs/distillation

docs/distillation.md has the table.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    taught = {"teacher": {"path": "runs/teacher", "temperature": 1.0, "soft": 0.9, "hard": 0.1}}
    begun = {"init_from": {"path": "runs/teacher", "layers": [1, 3]}}
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "language_model",
                    "sequence_length": 128,
                    "tokenizer": {"kind": "bpe", "vocab_size": 1024},
                },
                "model": {"kind": "llama", "num_layers": 2, "d_model": 96, "num_heads": 6, "num_kv_heads": 2},
                "optimizer": {"kind": "adamw", "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.02, "final_fraction": 0.1},
                "training": {"batch_size": 8, "log_every": 64, "eval_tokens": 131_072, "tensorboard": False},
                "execution": {"steps_per_call": 16},
            },
            "arms": {"alone": {}, "taught": taught, "begun": begun, "begun_and_taught": {**begun, **taught}},
            "sizes": [{}],
            "tokens": [262_144],
            "learning_rates": [0.0025, 0.005, 0.01],
            "seeds": [0, 1, 2],
        }
    )
