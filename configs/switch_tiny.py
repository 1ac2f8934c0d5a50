# SPDX-License-Identifier: Apache-2.0
"""A Switch Transformer (Fedus et al. 2022) after Switch-Base at toy size, as a decoder: a minute on a laptop.

python scripts/train.py --config=configs/switch_tiny.py --workdir=runs/switch

| | Switch-Base | here |
|---|---|---|
| experts | 128, in every other layer | 8, in every other layer |
| experts a token, capacity factor | 1, 1.25 | 1, 1.25 |
| load-balance loss, jitter | .01, .01 | .01, .01 |
| layers, width, heads, feed-forward | 12, 768, 12, 2048 | 2, 32, 2, 128 |

The chain's entropy is 3.887 nats a token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {"kind": "markov", "sequence_length": 64, "num_symbols": 128},
            "model": {
                "kind": "decoder_only",
                "num_layers": 2,
                "d_model": 32,
                "num_heads": 2,
                "activation": "relu",
                "experts": {
                    "num_experts": 8,
                    "experts_per_token": 1,
                    "every": 2,
                    "capacity_factor": 1.25,
                    "load_balance_loss": 0.01,
                    "router_jitter": 0.01,
                },
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.01},
            "schedule": {"kind": "linear"},
            "training": {"tokens": 524288, "batch_size": 8, "log_every": 128},
            "execution": {"steps_per_call": 64},
        }
    )
