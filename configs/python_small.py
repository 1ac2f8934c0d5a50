# SPDX-License-Identifier: Apache-2.0
"""A small decoder-only Transformer on the Python library's source: a minute or two on a laptop.

python scripts/train.py --config=configs/python_small.py --workdir=runs/small
python scripts/generate.py --checkpoint=runs/small --prompt="def main("
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "sequence_length": 128,
                "tokenizer": {"kind": "bpe", "vocab_size": 512},
            },
            "model": {"kind": "decoder_only", "num_layers": 2, "d_model": 64, "num_heads": 4},
            "optimizer": {"kind": "adamw", "learning_rate": 0.006},
            "training": {"tokens": 1_048_576, "batch_size": 8, "log_every": 32},
            "execution": {"steps_per_call": 16},
        }
    )
