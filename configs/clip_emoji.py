# SPDX-License-Identifier: Apache-2.0
"""CLIP on emoji and their names, such as "grinning face with smiling eyes".

npm pack emoji-datasource-twitter && tar xzf emoji-datasource-twitter-*.tgz
python scripts/emoji_pairs.py --package=package --out=runs/emoji.jsonl
python scripts/train.py --config=configs/clip_emoji.py --workdir=runs/clip_emoji
python scripts/evaluate.py --workdir=runs/clip_emoji --recall=1,5,10

128 s on 2 cores busy with more; of 207 emoji with names that were not trained on, the right name is the nearest of all
for .08 (by chance .005), among the ten nearest for .34 (.05).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "captions",
                "source": {"kind": "json_lines", "pattern": "runs/emoji.jsonl"},
                "tokenizer": {"kind": "wordpiece", "vocab_size": 1500},
                "text_length": 16,
                "image_size": 32,
                "channels": 3,
                "mean": (0.5, 0.5, 0.5),
                "stddev": (0.3, 0.3, 0.3),
                "augment": {"shift": 2, "flip": 0.5},
            },
            "model": {
                "kind": "clip",
                "num_layers": 2,
                "d_model": 64,
                "num_heads": 4,
                "end_token": 3,  # [SEP]
                "projection_dim": 64,
                "vision": {"patch_size": 4, "num_layers": 3, "d_model": 96, "num_heads": 4},
            },
            "objective": {"kind": "contrastive"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.001, "b2": 0.98, "weight_decay": 0.2},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 15, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
