# SPDX-License-Identifier: Apache-2.0
"""One-layer Transformers on a Markov chain whose entropy is known exactly: does the fitted E find it?

python scripts/sweep.py --config=configs/sweeps/markov.py --workdir=runs/markov
python scripts/fit.py --points=runs/markov --out=runs/markov/fit

python scripts/fit.py --points=runs/markov --out=runs/markov/fit --law=best

About 2 minutes on 2 cores. Expect E = 3.988 (3.975 to 3.995) beside the exact 3.985, and a residual of .06 %.

The chain's spectrum falls as k^-1.25, so fast that its end, at k = 128, is never felt. With k^-.75 it is: the last
directions are learned sooner than a power law says, and every law puts E .02 to .03 nats too low.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "base": {
                "data": {"kind": "markov", "sequence_length": 16, "num_symbols": 128, "spectrum_exponent": 1.25},
                "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
                "optimizer": {"kind": "adamw", "b2": 0.95},
                "schedule": {"kind": "wsd", "warmup_steps": 200},
                "training": {"batch_size": 8, "log_every": 512, "eval_tokens": 65536, "tensorboard": False},
                "execution": {"steps_per_call": 128, "scan_layers": False},
            },
            "sizes": [{"model.d_model": width} for width in (8, 12, 16, 24, 32, 48, 64)],
            "tokens": [262_144, 524_288, 1_048_576, 2_097_152, 4_194_304],
            "learning_rates": [0.012],
            "learning_rate_width": 16,
            "trunks": True,
            "params_column": "params_total",
        }
    )
