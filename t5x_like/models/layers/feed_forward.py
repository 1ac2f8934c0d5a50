# SPDX-License-Identifier: Apache-2.0
"""The position-wise feed-forward block, plain (Vaswani et al. 2017) or gated (Shazeer 2020)."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from t5x_like.models.context import Context
from t5x_like.models.layers.linear import Linear
from t5x_like.models.remat import from_inputs

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x * (1 / math.sqrt(2)))),  # jax.nn.gelu's erfc costs XLA:CPU more
    "gelu_quick": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class FeedForward(nn.Module):
    """out(act(up(x))), or out(act(gate(x)) * up(x)) when gated."""

    width: int
    hidden: int
    activation: str
    gated: bool
    use_bias: bool
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        wide = ("BTD,DM->BTM", (self.width,), ("embed",), (self.hidden,), ("mlp",), self.use_bias)
        activate = ACTIVATIONS[self.activation]
        h = Linear(*wide, name="up")(x, ctx)
        if self.gated:
            h = from_inputs(lambda gate, h: activate(gate) * h)(Linear(*wide, name="gate")(x, ctx), h)
        else:
            h = from_inputs(activate)(h)
        h = ctx.constrain(h, "batch length mlp")
        narrow = ("BTM,MD->BTD", (self.hidden,), ("mlp",), (self.width,), ("embed",), self.use_bias)
        return Linear(*narrow, scale=self.out_scale, name="out")(h, ctx)
