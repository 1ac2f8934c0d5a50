# SPDX-License-Identifier: Apache-2.0
"""Do abilities emerge, or do metrics? Decoders of eight widths learn a phone book by heart.

python scripts/phone_book.py --out=runs/phone_book
python scripts/sweep.py --config=configs/sweeps/phone_book.py --workdir=runs/phone_book/sweep

14 minutes on 2 cores busy with much else. docs/evaluation.md goes on from here: exact match jumps from 8 to 99 %
between two sizes, while the accuracy of single digits has risen all along.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    files = {name: {"kind": "json_lines", "pattern": f"runs/phone_book/{name}.jsonl"} for name in ("train", "others")}
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "language_model",
                    "source": files["train"],
                    "held_out": files["others"],  # whose numbers nobody can know
                    "sequence_length": 64,  # four lines of 16 tokens
                    "tokenizer": {"kind": "byte"},
                },
                "model": {"kind": "decoder_only", "num_layers": 2, "num_heads": 2},
                "optimizer": {"kind": "adamw", "b2": 0.98, "weight_decay": 0.0},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.05},
                "training": {"batch_size": 32, "log_every": 256, "eval_tokens": 24_000, "tensorboard": False},
                "execution": {"steps_per_call": 32, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (8, 12, 16, 24, 32, 48, 64, 96)],
            "tokens": [6_291_456],
            "learning_rates": [0.02],
            "learning_rate_width": 16,
            "learning_rate_power": 0.7,
        }
    )
