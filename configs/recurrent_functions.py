# SPDX-License-Identifier: Apache-2.0
"""Before the Transformer, an LSTM encoder and decoder with attention: functions to first lines of docstrings.

python scripts/train.py --config=configs/recurrent_functions.py --workdir=runs/recurrent
python scripts/generate.py --checkpoint=runs/recurrent --prompt="def close(self): self.file.close()"

1 min 50 s on 2 cores; held-out loss 4.006 +- .035 nats a token.
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
            "model": {"kind": "recurrent", "num_layers": 2, "d_model": 160},
            "objective": {"kind": "seq2seq", "label_smoothing": 0.1},
            "optimizer": {"kind": "adamw", "learning_rate": 0.002, "b2": 0.98},
            "schedule": {"kind": "rsqrt", "warmup_steps": 200},
            "training": {"epochs": 4, "batch_size": 32, "log_every": 50, "eval_tokens": 16_384},
            "execution": {"steps_per_call": 10},
        }
    )
