# SPDX-License-Identifier: Apache-2.0
"""A task with a known answer, by distance: what was read first is asked for at the end, behind ever more noise.

python scripts/sweep.py --config=configs/sweeps/recall.py --workdir=runs/recall

A target's loss is ln 8 = 2.079 for who has forgotten, and 0 for who remembers. docs/attention_kinds.md has the table.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    kinds = {
        "softmax": {"attention": None},
        "window": {"attention": {"kind": "streaming", "window": 8, "sinks": 0}},
        "window_and_sinks": {"attention": {"kind": "streaming", "window": 8, "sinks": 2}},
        "strided": {"attention": {"kind": "sparse_transformer", "stride": 8}},
        "linear": {"attention": {"kind": "linear"}},
    }
    return ConfigDict(
        {
            "base": {
                "data": {"kind": "recall", "task": "copy", "items": 2, "num_symbols": 8},
                "model": {"kind": "decoder_only", "num_layers": 2, "d_model": 32, "num_heads": 2},
                "optimizer": {"kind": "adamw", "learning_rate": 0.003, "b2": 0.95},
                "schedule": {"kind": "cosine", "warmup_fraction": 0.1},
                "training": {"log_every": 256, "eval_tokens": 65_536, "tensorboard": False},
                "execution": {"steps_per_call": 32, "scan_layers": False},
            },
            "arms": {name: {"model": fields} for name, fields in kinds.items()},
            "sizes": [
                {"data.sequence_length": length, "training.batch_size": 3072 // length} for length in (12, 24, 48, 96)
            ],
            "tokens": [2_000_000],  # noise among them: 651 steps of 3,072, whatever the length
            "learning_rates": [0.003],
        }
    )
