# SPDX-License-Identifier: Apache-2.0
"""The 2017 Transformer, small: functions of the Python library to the first lines of their docstrings.

python scripts/train.py --config=configs/transformer_functions.py --workdir=runs/functions
python scripts/generate.py --checkpoint=runs/functions --prompt="def close(self): self.file.close()"

1 min 51 s on 2 cores; held-out loss 3.692 +- .038 nats a token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "seq2seq",
                "source": {"kind": "python_functions"},
                "encoder_length": 128,
                "sequence_length": 32,
                "tokenizer": {"kind": "bpe", "vocab_size": 2048},
            },
            "model": {"kind": "transformer", "num_layers": 2, "d_model": 128, "num_heads": 4},
            "objective": {"kind": "seq2seq", "label_smoothing": 0.1},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002, "b2": 0.98},
            "schedule": {"kind": "rsqrt", "warmup_steps": 200},
            "training": {"epochs": 4, "batch_size": 32, "log_every": 50, "eval_tokens": 16_384},
            "execution": {"steps_per_call": 10},
        }
    )
