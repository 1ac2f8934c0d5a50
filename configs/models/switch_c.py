# SPDX-License-Identifier: Apache-2.0
"""Switch-C as a decoder, 1.571T parameters (Fedus et al. 2022, table 9).

The paper's model has 15 encoder and 15 decoder layers; here they are 30 decoder layers, which leaves the count as it is
to four digits: nearly all of it are the 30 x 2048 experts. Differs from the paper besides: rotary positions instead of
relative biases; sequences of 2048 tokens instead of 512 (in a batch of 1M tokens, as there), so that an expert's even
share of a sequence is a whole token. The mesh fits 256 TPU v5p:

python scripts/plan.py --config=configs/models/switch_c.py --topology=v5p:4x8x8 --tokens=500e9
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "source": {"kind": "text_files", "pattern": "data/**/*.txt"},
                "sequence_length": 2048,
                "tokenizer": {"kind": "bpe", "vocab_size": 32000},
            },
            "model": {
                "kind": "decoder_only",
                "num_layers": 30,
                "d_model": 2080,
                "num_heads": 32,
                "head_dim": 64,
                "mlp_dim": 6144,
                "vocab_size": 32128,
                "experts": {
                    "num_experts": 2048,
                    "experts_per_token": 1,
                    "routing": "capacity",
                    "capacity_factor": 1.0,
                    "every": 1,
                    "load_balance_loss": 0.01,
                },
                "norm": "rmsnorm",
                "positions": "rotary",
                "activation": "relu",
                "tie_embeddings": True,
            },
            "optimizer": {"kind": "adafactor", "learning_rate": 0.01},
            "schedule": {"kind": "rsqrt", "warmup_steps": 10000},
            "training": {"tokens": 500000000000, "batch_size": 512, "microbatches": 1},
            "objective": {"kind": "causal_lm", "logits_chunk": 1024, "z_loss": 0.0001},
            "precision": "bf16",
            "mesh": {"fsdp": 4, "expert": 64},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
