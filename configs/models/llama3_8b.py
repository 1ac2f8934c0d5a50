# SPDX-License-Identifier: Apache-2.0
"""LLaMA 3 8B, 8,030,261,248 parameters (Dubey et al. 2024, table 3).

The paper gives batch and warm-up for its largest model only; these are a quarter of its batch and its warm-up. The mesh
fits 64 TPU v6e:

python scripts/plan.py --config=configs/models/llama3_8b.py --topology=v6e:8x8 --tokens=15e12
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "source": {"kind": "text_files", "pattern": "data/**/*.txt"},
                "sequence_length": 8192,
                "tokenizer": {"kind": "bpe", "vocab_size": 32000},
            },
            "model": {
                "kind": "decoder_only",
                "num_layers": 32,
                "d_model": 4096,
                "num_heads": 32,
                "num_kv_heads": 8,
                "mlp_dim": 14336,
                "vocab_size": 128256,
                "norm": "rmsnorm",
                "norm_epsilon": 1e-05,
                "positions": "rotary",
                "rope_theta": 500000.0,
                "activation": "silu",
                "gated_mlp": True,
                "tie_embeddings": False,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0003, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": 8000, "final_fraction": 0.01},
            "training": {"tokens": 15000000000000, "batch_size": 512, "microbatches": 8},
            "objective": {"kind": "causal_lm", "logits_chunk": 2048},
            "precision": "bf16",
            "mesh": {"fsdp": 64},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
