# SPDX-License-Identifier: Apache-2.0
"""Mistral (Jiang et al. 2023), small, on the Python library's source; beside each size that of Mistral 7B.

python scripts/train.py --config=configs/mistral_python.py --workdir=runs/mistral

86 s on 2 cores, all in; held-out loss 3.399 +- .019 nats a token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "sequence_length": 128,
                "tokenizer": {"kind": "bpe", "vocab_size": 1024},
            },
            "model": {
                "kind": "mistral",
                "num_layers": 3,  # 32
                "d_model": 96,  # 4096
                "num_heads": 6,  # 32
                "num_kv_heads": 2,  # 8
                "window": 32,  # 4096, half of the context
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.005, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.02, "final_fraction": 0.1},
            "training": {"tokens": 1_048_576, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
