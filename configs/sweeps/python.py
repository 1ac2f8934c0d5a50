# SPDX-License-Identifier: Apache-2.0
"""The main job: one-layer Transformers on the docstrings of Python's library and packages, 5 sizes x 4 budgets, twice.

python scripts/sweep.py --config=configs/sweeps/python.py --workdir=runs/python
python scripts/fit.py --points=runs/python --out=runs/python/fit --law=best

About 3 minutes on 2 cores. Expect a residual of .25 %, the largest runs predicted to .6 %, and exponents known to .07
either way; docs/sweeps.md tells how this grid was chosen, lever by lever.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {
                    "kind": "language_model",
                    "source": {"kind": "python_docstrings"},
                    "sequence_length": 16,
                    "tokenizer": {"kind": "bpe", "vocab_size": 512},
                },
                "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 4, "positions": "relative"},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "wsd", "warmup_steps": 200},
                "training": {"batch_size": 16, "log_every": 512, "eval_tokens": 524_288, "tensorboard": False},
                "execution": {"steps_per_call": 64, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (16, 24, 36, 52, 76)],
            "tokens": [350_208, 700_416, 1_400_832, 2_801_664],
            "learning_rates": [0.017],
            "learning_rate_width": 16,
            "seeds": (0, 1),
            "trunks": True,
            "params_column": "params_nonembedding",
        }
    )
