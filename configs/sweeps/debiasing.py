# SPDX-License-Identifier: Apache-2.0
"""The planted text with pairs of sentences made equally likely, by rising weights: what it costs.

python scripts/plant.py --out=runs/planted
python scripts/sweep.py --config=configs/sweeps/debiasing.py --workdir=runs/debiasing
python scripts/debiasing.py --sweep=runs/debiasing --set=said --out=runs/debiasing

docs/probes.md has the picture's numbers.
"""

from typing import Any

from ml_collections import ConfigDict

WEIGHTS = (0.0, 0.001, 0.01, 0.1, 1.0)


def text(name: str) -> dict[str, Any]:
    """Of a planted file, and the pairs."""
    files = {"source": name, "pairs": "pairs"}
    return {part: {"kind": "json_lines", "pattern": f"runs/planted/{file}.jsonl"} for part, file in files.items()}


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "debiasing",
                    **text("text"),
                    "tokenizer": {"kind": "byte"},
                    "sequence_length": 64,
                    "held_out_fraction": 0.25,
                    "pair_length": 40,
                },
                "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 48, "num_heads": 4},
                "optimizer": {"kind": "adamw"},
                "training": {"batch_size": 16, "log_every": 25, "eval_tokens": 8192, "tensorboard": False},
                "evaluation": {"said": {**text("said"), "held_out_fraction": 1.0}},
                "execution": {"steps_per_call": 25},
            },
            "arms": {
                f"weight_{i}": {"objective": {"kind": "debiasing", "weight": weight}}
                for i, weight in enumerate(WEIGHTS)
            },
            "sizes": [{}],
            "tokens": [307_200],
            "learning_rates": [0.01],
            "seeds": [0, 1, 2],
        }
    )
