# SPDX-License-Identifier: Apache-2.0
"""Gemma 3 (Gemma Team 2025), small, on the Python library's source; beside each size that of Gemma 3 1B.

python scripts/train.py --config=configs/gemma3_python.py --workdir=runs/gemma3

104 s on 2 cores, all in; held-out loss 3.719 +- .019 nats a token.
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
                "kind": "gemma3",
                "num_layers": 6,  # 26; five with a window, then one without
                "d_model": 64,  # 1152
                "num_heads": 4,  # 4
                "num_kv_heads": 1,  # 1
                "mlp_dim": 192,  # 6912
                "window": 32,  # 512
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.005, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.02, "final_fraction": 0.1},
            "training": {"tokens": 655_360, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
