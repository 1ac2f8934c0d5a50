# SPDX-License-Identifier: Apache-2.0
"""The main job: small Transformers on the Python library's source, 4 sizes x 4 token budgets."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "python_library",
                    "sequence_length": 64,
                    "tokenizer": {"kind": "bpe", "vocab_size": 2048},
                },
                "model": {"kind": "decoder_only", "num_layers": 1},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"batch_size": 8, "log_every": 64, "eval_tokens": 196_608, "tensorboard": False},
                "execution": {"steps_per_call": 32, "scan_layers": False},
            },
            "sizes": [
                {"model.d_model": 16, "model.num_heads": 2},
                {"model.d_model": 32, "model.num_heads": 2},
                {"model.d_model": 64, "model.num_heads": 4},
                {"model.d_model": 96, "model.num_heads": 6},
            ],
            "tokens": [262_144, 524_288, 1_048_576, 2_097_152],
            "learning_rates": [0.045],
            "learning_rate_width": 16,
            "learning_rate_power": 0.8,
            "params_column": "params_nonembedding",
        }
    )
