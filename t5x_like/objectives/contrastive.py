# SPDX-License-Identifier: Apache-2.0
"""Which text belongs to which image, among those of a whole batch: each is compared with all, wherever they lie.

The logits [B, B] are computed once, a device those of its own images; only vectors of texts are gathered, and sums
over images go across devices. A row that fills a batch up is compared with none.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.objectives.contrastive import ContrastiveConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.models.streams import real
from t5x_like.objectives.task import Batch, Sums


class Contrastive:
    """A task; see `Task`. Every pair of a batch has a part in its loss, so that it is no sum over examples."""

    separable = False

    def __init__(self, config: ContrastiveConfig):
        self.config = config

    def prepare(self, state: Any, batch: Batch, key: jax.Array) -> Batch:
        """Identity."""
        del state, key
        return batch

    def loss(self, model: Model, params: Params, batch: Batch, *, key: Any, ctx: Context, scale: Any = None) -> Sums:
        """Returns {"loss", "image_to_text_accuracy", "text_to_image_accuracy"}: the latter say whether what is nearest
        belongs there; where several are as near, it does."""
        sums = self._sums(model, params, batch, key, ctx.replace(train=True))
        return {name: (value.sum(), weight.sum()) for name, (value, weight) in sums.items()}

    def evaluate(self, model: Model, params: Params, batch: Batch, *, ctx: Context) -> Sums:
        """Returns the same by example, [B] each; how well a batch is told apart depends on its size."""
        return self._sums(model, params, batch, None, ctx.replace(train=False))

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context) -> Sums:
        if self.config.loss == "softmax" and self.config.max_scale is not None:
            numbers = params["logit_scale"]
            scale = _at_most(math.log(self.config.max_scale), numbers["scale"])
            params = {**params, "logit_scale": {**numbers, "scale": scale}}
        want = ["logits_per_image"]
        logits = model.apply(params, batch, key=key, train=ctx.train, want=want, ctx=ctx)[want[0]]
        there = real(batch, "images").any(1)
        weights = there.astype(logits.dtype)
        own, pairs = jnp.eye(len(logits), dtype=bool), there[:, None] & there
        logits = jnp.where(pairs, logits, jnp.finfo(logits.dtype).min / 2)
        right = jnp.where(own, logits, 0.0).sum(1)
        loss = pairwise(logits, own, pairs) if self.config.loss == "sigmoid" else both_ways(logits, right)
        values = {
            "loss": loss,
            "image_to_text_accuracy": (right >= logits.max(1)).astype(logits.dtype),
            "text_to_image_accuracy": (right >= logits.max(0)).astype(logits.dtype),
        }
        return {name: (value * weights, weights) for name, value in values.items()}


def both_ways(logits: jax.Array, right: jax.Array) -> jax.Array:
    """Cross-entropy of each image's text among all and of each text's image, averaged: [B] of logits [B, B], of which
    `right` is the diagonal (Radford et al. 2021, figure 3)."""
    of_images, of_texts = (jax.nn.logsumexp(logits, axis=axis) for axis in (1, 0))
    return (of_images + of_texts) / 2 - right


def pairwise(logits: jax.Array, own: jax.Array, pairs: jax.Array) -> jax.Array:
    """Minus the log-likelihood that an image belongs to its own text and to no other, summed over texts: [B] (Zhai et
    al. 2023, equation 1); `pairs` bool [B, B] are those that there are."""
    signed = jnp.where(pairs, jnp.where(own, logits, -logits), 0.0)
    return jnp.where(pairs, jax.nn.softplus(-signed), 0.0).sum(1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _at_most(most: float, scale: jax.Array) -> jax.Array:
    """The scale or the most there may be, from where it can only go down.

    Differs from the paper: there the parameter itself is clipped, after each step.
    """
    return jnp.minimum(scale, most)


def _backward(most: float, scale: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(scale >= most, jnp.maximum(gradient, 0.0), gradient),)


_at_most.defvjp(lambda most, scale: (_at_most(most, scale), scale), _backward)

build = Contrastive
