# SPDX-License-Identifier: Apache-2.0
"""What MAE minimises (He et al. 2022): the mean square of what is wrong in the pixels of hidden patches."""

from typing import Any

import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.models.streams import real
from t5x_like.objectives.task import Batch, Scale, SummedTask, Sums


class MaskedPatches(SummedTask):
    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        want = ("pixels", "patches", "hidden_patches")
        out = model.apply(params, batch, key=key, train=ctx.train, want=want, ctx=ctx)
        hidden, weights = out["hidden_patches"], real(batch, "images").any(1).astype(jnp.float32)
        wrong = jnp.square(out["pixels"] - out["patches"]).mean(-1)
        return {"loss": ((wrong * hidden).sum(1) / hidden.sum(1) * weights, weights)}


build = MaskedPatches
