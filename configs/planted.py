# SPDX-License-Identifier: Apache-2.0
"""A small decoder on bytes of the planted text of scripts/plant.py, which memorises what is there often.

python scripts/plant.py --out=runs/planted
python scripts/train.py --config=configs/planted.py --workdir=runs/planted_model

docs/probes.md has what the probes find.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "debiasing",
                "source": {"kind": "json_lines", "pattern": "runs/planted/text.jsonl"},
                "pairs": {"kind": "json_lines", "pattern": "runs/planted/pairs.jsonl"},
                "tokenizer": {"kind": "byte"},
                "sequence_length": 64,
                "held_out_fraction": 0.05,
                "pair_length": 40,
            },
            "model": {"kind": "decoder_only", "num_layers": 2, "d_model": 64, "num_heads": 4},
            "objective": {"kind": "debiasing", "weight": 0.0},
            "optimizer": {"kind": "adamw", "learning_rate": 0.01},
            "training": {"steps": 400, "batch_size": 16, "log_every": 25, "eval_tokens": 2048, "tensorboard": False},
            "execution": {"steps_per_call": 25},
        }
    )
