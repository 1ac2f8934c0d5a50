# SPDX-License-Identifier: Apache-2.0
"""configs/llama_python.py's model, trained further on the source of functions alone; any Hugging Face folder would do.

python scripts/train.py --config=configs/llama_python.py --workdir=runs/llama
python scripts/convert.py to_hf runs/llama runs/llama_hf
python scripts/train.py --config=configs/llama_tuned.py --workdir=runs/llama_tuned
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "init_from": {"path": "runs/llama_hf"},
            "data": {
                "kind": "language_model",
                "source": {"kind": "python_functions"},
                "text": "inputs",
                "sequence_length": 128,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0005, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.05, "final_fraction": 0.1},
            "training": {"tokens": 131_072, "batch_size": 8, "log_every": 16},
            "execution": {"steps_per_call": 16},
        }
    )
