# SPDX-License-Identifier: Apache-2.0
"""ViT-G/14, 1.84B parameters (Zhai et al. 2022, table 2), on images of 224 x 224 pixels.

The paper trains it for 5 million steps of 4,096 images with Adafactor on JFT-3B. The mesh fits 64 TPU v5e:

python scripts/plan.py --config=configs/models/vit_g14.py --topology=v5e:8x8 --tokens=20.48e9
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "image_classification",
                "source": {"kind": "image_folders", "folder": "data/images"},
                "image_size": 224,
                "channels": 3,
                "num_labels": 1000,
                "mean": (0.5,),
                "stddev": (0.5,),
                "augment": {"flip": 0.5, "shift": 16},
            },
            "model": {
                "kind": "vit",
                "num_layers": 48,
                "d_model": 1664,
                "num_heads": 16,
                "mlp_dim": 8192,
                "patch_size": 14,
                "class_token": False,
                "pooling": "attention",
            },
            "objective": {"kind": "classification"},
            "optimizer": {"kind": "adafactor", "learning_rate": 0.0008, "weight_decay": 0.03},
            "schedule": {"kind": "rsqrt", "warmup_steps": 10000},
            "training": {"steps": 5_000_000, "batch_size": 4096, "microbatches": 4},
            "precision": "bf16",
            "mesh": {"fsdp": 64},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
