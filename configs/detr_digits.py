# SPDX-License-Identifier: Apache-2.0
"""DETR on 3 x 3 grids of handwritten digits, a third of whose cells are empty: which digits there are, and where.

python scripts/train.py --config=configs/detr_digits.py --workdir=runs/detr_digits
python scripts/evaluate.py --workdir=runs/detr_digits

106 s on 2 cores, all in; held-out loss 0.193, average precision .960, overlap of boxes .978.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    grids = {"kind": "digit_grids", "side": 3, "empty": 0.33}
    return ConfigDict(
        {
            "data": {
                "kind": "detection",
                "source": {**grids, "count": 8000, "digits": "train"},
                "held_out": {**grids, "count": 400, "digits": "held_out", "seed": 1},
                "image_size": 24,
                "num_labels": 10,
                "max_objects": 9,
                "mean": (0.2,),
                "stddev": (0.34,),
            },
            "model": {
                "kind": "detr",
                "patch_size": 4,
                "num_layers": 3,
                "d_model": 64,
                "num_heads": 4,
                "mlp_dim": 128,
                "num_queries": 16,
                "decoder_layers": 2,
            },
            "objective": {"kind": "detection"},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002, "b2": 0.98, "weight_decay": 0.01},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
            "training": {"epochs": 6, "batch_size": 64, "log_every": 50},
            "execution": {"steps_per_call": 25},
        }
    )
