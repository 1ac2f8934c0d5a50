# SPDX-License-Identifier: Apache-2.0
"""Training steps of encoders of images, ours and those of `transformers` (extra `[bench]`): ViT and CLIP."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from t5x_like.config import RunConfig
from t5x_like.strict import convert

# Of both: width, layers, heads, pixels, pixels of a patch, images of a batch; of CLIP's texts, tokens and their number.
SIZES: dict[str, Any] = {"width": 192, "layers": 4, "heads": 3, "image": 96, "patch": 12, "batch": 32}
TEXT: dict[str, Any] = {"length": 16, "vocab": 1024}
LABELS = 100


def content_of(family: str, precision: str = "f32") -> dict[str, Any]:
    """A run, as a config file gives it."""
    s, depth = SIZES, {"num_layers": SIZES["layers"], "d_model": SIZES["width"], "num_heads": SIZES["heads"]}
    rest = {
        "optimizer": {"kind": "adamw", "weight_decay": 0.1},
        "training": {"batch_size": s["batch"], "steps": 1000},
        "precision": precision,
    }
    images = {"image_size": s["image"], "channels": 3, "source": {"kind": "digits"}}
    if family == "vit":
        return rest | {
            "data": {"kind": "image_classification", "num_labels": LABELS, **images},
            "model": {"kind": "vit", "patch_size": s["patch"], **depth},
            "objective": {"kind": "classification"},
        }
    tokenizer = {"kind": "bpe", "vocab_size": TEXT["vocab"]}
    return rest | {
        "data": {"kind": "captions", "text_length": TEXT["length"], "tokenizer": tokenizer, **images},
        "model": {
            "kind": "clip",
            "vocab_size": TEXT["vocab"],
            **depth,
            "vision": {"patch_size": s["patch"], **depth},
        },
        "objective": {"kind": "contrastive"},
    }


def ours(family: str, precision: str = "f32") -> tuple[Callable[[int], None], int]:
    """Returns `work(steps)` and the images of a step."""
    from t5x_like.training.startup import configure_jax

    configure_jax()
    import jax

    from t5x_like.training.program import program_for

    config = convert(RunConfig, content_of(family, precision)).resolve()
    program = program_for(config)
    state, rng, data = program.init(jax.random.key(0)), np.random.default_rng(0), config.data
    rows = config.training.batch_size

    def feature(name: str, shape: tuple[int, ...], dtype: str) -> Any:
        shape = (1, rows, *shape)
        if name == "images":
            return rng.normal(size=shape).astype(dtype)
        most = {"labels": LABELS, "text_tokens": TEXT["vocab"]}.get(name)
        return np.ones(shape, dtype) if most is None else rng.integers(0, most, shape).astype(dtype)

    batches = [
        {n: feature(n, *what) for n, what in data.features.items()}  # type: ignore[attr-defined]
        for _ in range(4)
    ]
    knobs = program.knobs(np.asarray([1e-3]), jax.random.key(1))
    step = program.step.lower(state, program.on_devices(batches[0], leading=1), knobs).compile()

    def work(steps: int) -> None:
        nonlocal state
        sums = None
        for i in range(steps):
            state, sums = step(state, program.on_devices(batches[i % len(batches)], leading=1), knobs)
        jax.block_until_ready(sums)

    return work, rows


def hugging_face(family: str, bf16: bool = False) -> tuple[Callable[[int], None], int]:
    """The same in PyTorch, eagerly."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    s = SIZES
    depth = {"hidden_size": s["width"], "num_hidden_layers": s["layers"], "num_attention_heads": s["heads"]}
    depth |= {"intermediate_size": 4 * s["width"]}
    vision = {**depth, "image_size": s["image"], "patch_size": s["patch"]}
    images = torch.randn(4, s["batch"], 3, s["image"], s["image"])
    if family == "vit":
        model: Any = transformers.ViTForImageClassification(transformers.ViTConfig(**vision, num_labels=LABELS))
        given: dict[str, Any] = {"labels": torch.randint(LABELS, (s["batch"],))}
    else:
        text = {**depth, "vocab_size": TEXT["vocab"], "max_position_embeddings": TEXT["length"], "eos_token_id": 1}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=s["width"])
        model = transformers.CLIPModel(config)
        given = {"input_ids": torch.randint(TEXT["vocab"], (s["batch"], TEXT["length"])), "return_loss": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def work(steps: int) -> None:
        for i in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = model(pixel_values=images[i % len(images)], **given).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        loss.item()

    return work, s["batch"]
