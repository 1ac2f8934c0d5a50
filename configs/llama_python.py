# SPDX-License-Identifier: Apache-2.0
"""LLaMA (Touvron et al. 2023), small, on the Python library's source.

python scripts/train.py --config=configs/llama_python.py --workdir=runs/llama

53 s on 2 cores, all in; held-out loss 3.444 +- .019 nats a token.
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
            "model": {"kind": "llama", "num_layers": 3, "d_model": 96, "num_heads": 6, "num_kv_heads": 2},
            "optimizer": {"kind": "adamw", "learning_rate": 0.005, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.02, "final_fraction": 0.1},
            "training": {"tokens": 1_048_576, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
