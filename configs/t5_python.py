# SPDX-License-Identifier: Apache-2.0
"""T5 (Raffel et al. 2020), small, fills spans of the Python library's functions; beside each size that of T5-Small.

python scripts/train.py --config=configs/t5_python.py --workdir=runs/t5

113 s on 2 cores, all in; held-out loss 2.867 +- .022 nats a token.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "span_corruption",
                "source": {"kind": "python_functions"},
                "text": "inputs",
                "encoder_length": 128,  # 512
                "tokenizer": {"kind": "unigram", "vocab_size": 2048, "sentinels": 100},
            },
            "model": {
                "kind": "t5",
                "num_layers": 2,  # 6, and as many of the encoder
                "d_model": 64,  # 512
                "num_heads": 4,  # 8
                "dropout_rate": 0.0,  # 0.1
            },
            "objective": {"kind": "seq2seq"},
            "optimizer": {"kind": "adafactor", "learning_rate": 0.02},  # 0.01
            "schedule": {"kind": "rsqrt", "warmup_steps": 0, "timescale_steps": 300},  # 10000
            "training": {"steps": 800, "batch_size": 16, "log_every": 40, "eval_tokens": 32_768},
            "execution": {"steps_per_call": 10},
        }
    )
