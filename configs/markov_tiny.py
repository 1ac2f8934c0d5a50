# SPDX-License-Identifier: Apache-2.0
"""A one-layer Transformer on a Markov chain of known entropy, 3.887 nats a token: seconds on a laptop.

python scripts/train.py --config=configs/markov_tiny.py --workdir=runs/markov_tiny
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {"kind": "markov", "sequence_length": 16, "num_symbols": 128},
            "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 32, "num_heads": 2},
            "optimizer": {"kind": "adamw", "learning_rate": 0.01},
            "schedule": {"kind": "linear"},
            "training": {"tokens": 262144, "batch_size": 8, "log_every": 128},
            "execution": {"steps_per_call": 64},
        }
    )
