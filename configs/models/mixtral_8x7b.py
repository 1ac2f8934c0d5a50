# SPDX-License-Identifier: Apache-2.0
"""Mixtral 8x7B, 46,702,792,704 parameters, 12,879,925,248 of them active (Jiang et al. 2024, table 1).

The paper gives neither optimizer nor batch: those here are LLaMA's. Differs from the paper: an expert takes at most
1.25 times its even share of a sequence. The mesh fits 64 TPU v5p:

python scripts/plan.py --config=configs/models/mixtral_8x7b.py --topology=v5p:4x4x4 --tokens=8e12
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "source": {"kind": "text_files", "pattern": "data/**/*.txt"},
                "sequence_length": 32768,
                "tokenizer": {"kind": "bpe", "vocab_size": 32000},
            },
            "model": {
                "kind": "decoder_only",
                "num_layers": 32,
                "d_model": 4096,
                "num_heads": 32,
                "num_kv_heads": 8,
                "mlp_dim": 14336,
                "vocab_size": 32000,
                "experts": {
                    "num_experts": 8,
                    "experts_per_token": 2,
                    "routing": "capacity",
                    "capacity_factor": 1.25,
                    "normalise_weights": True,
                    "every": 1,
                },
                "norm": "rmsnorm",
                "norm_epsilon": 1e-05,
                "positions": "rotary",
                "rope_theta": 1000000.0,
                "activation": "silu",
                "gated_mlp": True,
                "tie_embeddings": False,
            },
            "optimizer": {"kind": "adamw", "learning_rate": 0.0003, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_steps": 2000, "final_fraction": 0.1},
            "training": {"tokens": 8000000000000, "batch_size": 128, "microbatches": 2},
            "objective": {"kind": "causal_lm", "logits_chunk": 8192},
            "precision": "bf16",
            "mesh": {"fsdp": 16, "expert": 4},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
