# SPDX-License-Identifier: Apache-2.0
"""One-layer Transformers on a Markov chain whose entropy is known exactly: does the fitted E find it?

python scripts/sweep.py --config=configs/sweeps/markov.py --workdir=runs/markov
python scripts/fit.py --points=runs/markov --out=runs/markov/fit

About 3 minutes on 2 cores. Expect E = 3.87 (3.83 to 3.89) beside the exact 3.887, and a residual of .15 %.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {"kind": "markov", "sequence_length": 16, "num_symbols": 128},
                "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "linear", "warmup_fraction": 0.1},
                "training": {"batch_size": 8, "log_every": 512, "eval_tokens": 65536, "tensorboard": False},
                "execution": {"steps_per_call": 128, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (8, 12, 16, 24, 32, 48)],
            "tokens": [131_072, 262_144, 524_288, 1_048_576, 2_097_152],
            "learning_rates": [0.017],
            "learning_rate_width": 16,
            "params_column": "params_total",
        }
    )
