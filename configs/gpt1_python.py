# SPDX-License-Identifier: Apache-2.0
"""GPT (Radford et al. 2018), small, on the Python library's source; beside each size the paper's.

python scripts/train.py --config=configs/gpt1_python.py --workdir=runs/gpt1

117 s on 2 cores, all in; held-out loss 3.744 +- .018 nats a token.
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
                "kind": "gpt1",
                "num_layers": 3,  # 12
                "d_model": 96,  # 768
                "num_heads": 6,  # 12
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.999, "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.05},
            "training": {"tokens": 1_048_576, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
