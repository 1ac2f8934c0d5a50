# SPDX-License-Identifier: Apache-2.0
"""LLaVA 1.5 7B (Liu et al. 2023), the second stage of its training: projector and language model, the encoder frozen.

7,050,828,800 parameters, without the encoder's last layer, which is not read. The first stage is the same with
`--config.tuning.train="['projector/.*']"`, a learning rate of 1e-3 and batches of 256. The paper's 665K examples are
5,197 steps, in a day on 8 A100; the mesh fits 16 TPU v5e:

python scripts/plan.py --config=configs/models/llava_7b.py --topology=v5e:4x4
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "visual_question",
                "source": {"kind": "json_lines", "pattern": "data/llava/*.jsonl"},
                "tokenizer": {"kind": "bpe", "vocab_size": 32000, "specials": ("image",)},
                "answer_length": 100,
                "image_size": 336,
                "channels": 3,
                "sequence_length": 2048,
                "mean": (0.48145466, 0.4578275, 0.40821073),
                "stddev": (0.26862954, 0.26130258, 0.27577711),
            },
            "model": {
                "kind": "llava",
                "num_layers": 32,
                "d_model": 4096,
                "num_heads": 32,
                "mlp_dim": 11008,
                "vocab_size": 32064,
                "vision": {"patch_size": 14, "num_layers": 23, "d_model": 1024, "num_heads": 16},
            },
            "tuning": {"kind": "partial", "train": ("(projector|decoder|token_embedding|logits)/.*",)},
            "optimizer": {"kind": "adamw", "learning_rate": 2e-5, "weight_decay": 0.0, "clip_norm": 1.0},
            "schedule": {"kind": "cosine", "warmup_fraction": 0.03},
            "training": {"steps": 5197, "batch_size": 128, "microbatches": 8},
            "objective": {"kind": "causal_lm", "logits_chunk": 512},
            "precision": "bf16",
            "mesh": {"fsdp": 16},
            "execution": {"scan_layers": True, "remat": "full"},
        }
    )
