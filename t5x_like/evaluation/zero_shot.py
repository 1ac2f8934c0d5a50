# SPDX-License-Identifier: Apache-2.0
"""What vectors of images and texts are good for as they are: classes told apart by sentences about them (Radford et al.
2021, section 3.1), and texts found for images and images for texts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from t5x_like.data.tasks.captions import Captions
from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Params
from t5x_like.training.program import Program

_ROWS = 256  # at a time


def score(program: Program, params: Params, dataset: Captions, count: int, how: dict[str, Any]) -> dict[str, float]:
    """Of up to `count` held-out pairs `recalls` `within` some numbers, and, where there are `classes`,
    "zero_shot_accuracy": how often the vector that is nearest to an image is that of its label. A class has the mean of
    its name in each of the `templates`, where it stands for {}, of length 1. Raises UserError: the data has no labels,
    or others."""
    classes, templates, model = how["classes"], how["templates"], program.model
    apply = jax.jit(lambda batch, want: model.apply(params, batch, want=want, ctx=program.ctx), static_argnums=1)
    found = []
    for batch in dataset.eval_batches(_ROWS, count):
        out, real = apply(batch, ("image_embeddings", "text_embeddings")), batch["images_segment_ids"][:, 0] > 0
        labels = batch.get("labels", np.full(len(real), -1))
        found.append([np.asarray(x)[real] for x in (out["image_embeddings"], out["text_embeddings"], labels)])
    images, texts, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    result = recalls(images, texts, how["within"])
    if classes:
        if not ((labels >= 0) & (labels < len(classes))).all():
            given = "data.label is None" if (labels < 0).all() else f"{labels.max()} is the label of an image"
            raise UserError(f"--zero_shot: {given}; accepted: labels that are places of the {len(classes)} names")
        sentences = [template.replace("{}", name) for template in templates for name in classes]
        tokens = dataset.of_texts(list(dataset.tokenizer.encode_documents(sentences)))
        means = np.reshape(
            apply(tokens, ("text_embeddings",))["text_embeddings"], (len(templates), len(classes), -1)
        ).mean(0)
        nearest = (images @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1)
        result["zero_shot_accuracy"] = float((nearest == labels).mean())
    return result


def recalls(images: np.ndarray, texts: np.ndarray, within: Sequence[int]) -> dict[str, float]:
    """Shares of images whose text is among the k nearest, and of texts whose image is, of vectors [N, E] each; what is
    as near, such as the same text once more, does not stand before it."""
    scores = images @ texts.T
    before = {"image_to_text": scores, "text_to_image": scores.T}
    before = {name: (x > np.diag(x)[:, None] + 1e-6).sum(1) for name, x in before.items()}
    return {f"{name}_recall_{k}": float((x < k).mean()) for name, x in before.items() for k in within}
