# SPDX-License-Identifier: Apache-2.0
"""GPT-2 (Radford et al. 2019), small, on the Python library's source; beside each size that of the paper's smallest.

python scripts/train.py --config=configs/gpt2_python.py --workdir=runs/gpt2

123 s on 2 cores, all in; held-out loss 3.977 +- .019 nats a token.
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
                "kind": "gpt2",
                "num_layers": 3,  # 12
                "d_model": 96,  # 768
                "num_heads": 6,  # 12
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.005, "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.02},
            "training": {"tokens": 1_048_576, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
