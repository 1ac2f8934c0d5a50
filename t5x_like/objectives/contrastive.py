# SPDX-License-Identifier: Apache-2.0
"""Which text belongs to which image, among those of a whole batch: each is compared with all, wherever they lie.

The logits [B, B] are computed once, a device those of its own images: only vectors of texts are gathered, and what is
summed over images goes across devices. A row that fills a batch up is compared with none.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.models.streams import real
from t5x_like.objectives.task import Batch, Scale, SummedTask, Sums


class Contrastive(SummedTask):
    """ "loss", of each image: the cross-entropy of its text among all and of the text's image, averaged (Radford et al.
    2021, figure 3); or of every pair by itself, summed over texts (Zhai et al. 2023, equation 1). Every pair of a batch
    has a part in it, so how large it is depends on how large that is.

    "image_to_text_accuracy" and "text_to_image_accuracy": whether what is nearest belongs there, or is as near.
    """

    separable = False

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        c = self.config
        if c.loss == "softmax":
            numbers = params["logit_scale"]
            most = _at_most(math.log(c.max_scale), numbers["scale"])
            params = {**params, "logit_scale": {**numbers, "scale": most}}
        outputs = model.apply(params, batch, key=key, train=ctx.train, want=("logits_per_image",), ctx=ctx)
        logits, there = outputs["logits_per_image"], real(batch, "images").any(1)
        logits = jnp.where(there[:, None] & there, logits, jnp.finfo(logits.dtype).min / 2)
        own, weights = jnp.eye(len(logits), dtype=bool), there.astype(logits.dtype)
        right = jnp.where(own, logits, 0.0).sum(1)
        if c.loss == "softmax":
            loss = (jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0)) / 2 - right
        else:
            loss = jax.nn.softplus(jnp.where(own, -logits, logits)).sum(1)
        accuracy = {"image_to_text_accuracy": right >= logits.max(1), "text_to_image_accuracy": right >= logits.max(0)}
        return {name: (value * weights, weights) for name, value in {"loss": loss, **accuracy}.items()}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _at_most(most: float, scale: jax.Array) -> jax.Array:
    """The scale, or the most there may be, from where it can only go down. Differs from the paper: there the parameter
    itself is clipped, after each step."""
    return jnp.minimum(scale, most)


def _backward(most: float, scale: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(scale >= most, jnp.maximum(gradient, 0.0), gradient),)


_at_most.defvjp(lambda most, scale: (_at_most(most, scale), scale), _backward)

build = Contrastive
