# SPDX-License-Identifier: Apache-2.0
"""GPT-3 175B, 174.6B parameters (Brown et al. 2020, table 2.1; a batch of 3.2M tokens).

Differs from the paper: attention is dense in every layer, where the paper alternates it with locally banded layers; the
vocabulary of 50,257 is padded to a multiple of 128, so that it divides over the tensor axis. The mesh fits 256 TPU v5p:

python scripts/plan.py --config=configs/models/gpt3_175b.py --topology=v5p:4x8x8 --tokens=300e9
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "language_model",
                "source": {"kind": "text_files", "pattern": "data/**/*.txt"},
                "sequence_length": 2048,
                "tokenizer": {"kind": "bpe", "vocab_size": 50257},
            },
            "model": {
                "kind": "decoder_only",
                "num_layers": 96,
                "d_model": 12288,
                "num_heads": 96,
                "mlp_dim": 49152,
                "vocab_size": 50304,
                "norm": "layernorm",
                "positions": "learned",
                "activation": "gelu_tanh",
                "use_bias": True,
                "tie_embeddings": True,
            },
            "optimizer": {
                "kind": "adamw",
                "learning_rate": 6e-05,
                "b1": 0.9,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "schedule": {"kind": "cosine", "warmup_fraction": 0.00125, "final_fraction": 0.1},
            "training": {"tokens": 300000000000, "batch_size": 1536, "microbatches": 12},
            "objective": {"kind": "causal_lm", "logits_chunk": 1024},
            "precision": "bf16",
            "mesh": {"fsdp": 64, "tensor": 4},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
