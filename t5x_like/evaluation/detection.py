# SPDX-License-Identifier: Apache-2.0
"""Average precision of found objects, as COCO defines it (Lin et al. 2014)."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.data.dataset import Dataset
from t5x_like.models.layers.parameters import Params
from t5x_like.objectives.detection import overlap
from t5x_like.training.program import Program

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))
_RECALLS = np.linspace(0, 1, 101)
_ROWS = 128


def average_precision(
    program: Program,
    params: Params,
    dataset: Dataset,
    images: int,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, float]:
    """Of up to `images` held-out images: "average_precision", the mean over overlaps of .5 to .95, and of .5 alone.

    What a query finds is its likeliest class but none, as sure as that is likely.
    """
    apply = jax.jit(partial(program.model.apply, want=("logits", "boxes"), ctx=program.ctx))
    found: list[tuple[np.ndarray, ...]] = []
    for batch in dataset.eval_batches(_ROWS, images):
        out = jax.device_get(apply(params, program.on_devices({"images": batch["images"]})))
        sure = np.asarray(jax.nn.softmax(out["logits"]))[..., 1:]
        overlaps = np.asarray(overlap(out["boxes"][:, :, None], jnp.asarray(batch["boxes"])[:, None])[0])
        there = batch["images_segment_ids"].any(1)
        parts = (sure.max(-1), sure.argmax(-1) + 1, overlaps, batch["box_labels"])
        found += list(zip(*(part[there] for part in parts), strict=True))
        progress(len(found) / images)
    classes = sorted({int(label) for *_, labels in found for label in labels} - {0})
    by_threshold = [np.mean([of_class(found, label, at) for label in classes]) for at in THRESHOLDS]
    return {"average_precision": float(np.mean(by_threshold)), "average_precision_50": float(by_threshold[0])}


def of_class(found: Sequence[tuple[np.ndarray, ...]], label: int, threshold: float) -> float:
    """The mean of the precision at 101 recalls, each the best at that recall or a higher one.

    Args:
      found: of each image how sure every query is [Q], of which class [Q], its overlap with each object [Q, M], and the
        classes of those [M].
    """
    hits: list[tuple[float, bool]] = []
    total = 0
    for sure, classes, overlaps, labels in found:
        left = labels == label
        total += int(left.sum())
        for query in sorted(np.flatnonzero(classes == label), key=lambda query: -sure[query]):
            overlap_left = np.where(left, overlaps[query], -1.0)
            best = int(overlap_left.argmax())
            hit = bool(overlap_left[best] >= threshold)
            left = left & (np.arange(len(left)) != best) if hit else left
            hits.append((float(sure[query]), hit))
    right = np.cumsum([hit for _, hit in sorted(hits, key=lambda each: -each[0])])
    if not len(right):
        return 0.0
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    places = np.searchsorted(right / total, _RECALLS, side="left")
    return float(np.where(places < len(right), precision[np.minimum(places, len(right) - 1)], 0.0).mean())
