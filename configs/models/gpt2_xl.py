# SPDX-License-Identifier: Apache-2.0
"""GPT-2 XL, 1,557,611,200 parameters (Radford et al. 2019, table 2; sizes as OpenAI released them).

The paper gives neither optimizer nor schedule: those here are GPT-3's for its model of that size. The mesh fits 16 TPU
v5e:

python scripts/plan.py --config=configs/models/gpt2_xl.py --topology=v5e:4x4 --tokens=40e9
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "source": {"kind": "text_files", "pattern": "data/**/*.txt"},
                "sequence_length": 1024,
                "tokenizer": {"kind": "bpe", "vocab_size": 50257},
            },
            "model": {
                "kind": "decoder_only",
                "num_layers": 48,
                "d_model": 1600,
                "num_heads": 25,
                "vocab_size": 50257,
                "norm": "layernorm",
                "positions": "learned",
                "activation": "gelu_tanh",
                "use_bias": True,
                "tie_embeddings": True,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 2e-4, "b2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.01, "final_fraction": 0.1},
            "training": {"tokens": 40_000_000_000, "batch_size": 512, "microbatches": 16},
            "objective": {"kind": "causal_lm", "logits_chunk": 512},
            "precision": "bf16",
            "mesh": {"fsdp": 16},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
