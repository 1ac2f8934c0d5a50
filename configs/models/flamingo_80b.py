# SPDX-License-Identifier: Apache-2.0
"""Flamingo 80B (Alayrac et al. 2022): what stands before every seventh layer of a language model of 70 billion.

The encoder of images is CLIP's ViT-L/14 in the place of the paper's NFNet, positions are rotary in the place of
Chinchilla's relative ones, which together are 6 billion parameters fewer. Resampler and gated layers are trained. The
mesh fits 256 TPU v5p:

python scripts/plan.py --config=configs/models/flamingo_80b.py --topology=v5p:8x8x4
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "visual_question",
                "source": {"kind": "json_lines", "pattern": "data/pages/*.jsonl"},
                "tokenizer": {"kind": "bpe", "vocab_size": 32000, "specials": ("image",)},
                "question": None,
                "answer_length": 50,
                "shots": 4,
                "image_size": 224,
                "channels": 3,
                "sequence_length": 256,
                "mean": (0.48145466, 0.4578275, 0.40821073),
                "stddev": (0.26862954, 0.26130258, 0.27577711),
            },
            "model": {
                "kind": "flamingo",
                "num_layers": 80,
                "d_model": 8192,
                "num_heads": 64,
                "mlp_dim": 32768,
                "activation": "gelu",
                "gated_mlp": False,
                "cross_every": 7,
                "vision": {"patch_size": 14, "num_layers": 24, "d_model": 1024, "num_heads": 16},
                "resampler": {"latents": 64, "num_layers": 6, "num_heads": 16, "head_dim": 96},
            },
            "tuning": {"kind": "partial", "train": ("resampler/.*", "decoder/layers/.*/cross_.*")},
            "optimizer": {"kind": "adamw", "learning_rate": 1e-4, "weight_decay": 0.1, "clip_norm": 1.0},
            "schedule": {"kind": "constant", "warmup_steps": 5000},
            "training": {"steps": 500000, "batch_size": 512, "microbatches": 2},
            "precision": "bf16",
            "mesh": {"fsdp": 64, "tensor": 4},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
