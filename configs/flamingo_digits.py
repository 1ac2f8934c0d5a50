# SPDX-License-Identifier: Apache-2.0
"""."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "visual_question",
                "source": {"kind": "digit_grids", "side": 1, "count": 6000, "digits": "train"},
                "held_out": {"kind": "digit_grids", "side": 1, "count": 500, "digits": "held_out", "seed": 1},
                "tokenizer": {"kind": "byte", "specials": ("image",)},
                "answer_length": 6,
                "shots": 1,
                "image_size": 8,
                "sequence_length": 56,
                "mean": (0.3,),
                "stddev": (0.38,),
                "augment": {"shift": 1, "rotate": 10, "zoom": 0.1},
            },
            "model": {
                "kind": "flamingo",
                "num_layers": 2,
                "d_model": 64,
                "num_heads": 4,
                "cross_every": 1,
                "vision": {"patch_size": 2, "num_layers": 2, "d_model": 64, "num_heads": 4, "mlp_dim": 128},
                "resampler": {"latents": 4, "num_layers": 1, "num_heads": 4, "head_dim": 16},
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.98, "weight_decay": 0.05},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 18, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
