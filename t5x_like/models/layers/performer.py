# SPDX-License-Identifier: Apache-2.0
"""FAVOR+ (Choromanski et al. 2021, "Rethinking attention with Performers"): linear attention whose products of features
are the softmax's weights on average.

    f(x) = exp(w x' - |x'|^2 / 2) / sqrt(F) for F vectors w      x' = x / C^(1/4)      E f(q) f(k) = exp(q k / sqrt(C))

The vectors (section 2.4) are drawn C at a time: orthogonal to one another, and as long as vectors of C normal numbers.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Context
from t5x_like.models.layers.linear_attention import LinearAttention
from t5x_like.models.layers.parameters import ParamSpec, parameter

_KEY = 4  # what a layer's randomness is folded with for features; see `block.KEYS` for the others


@dataclasses.dataclass(frozen=True)
class Orthogonal:
    """Draws vectors [..., F, C] as the paper does."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        *lead, features, width = shape
        of_directions, of_lengths = jax.random.split(key)
        blocks = -(-features // width)
        directions, r = jnp.linalg.qr(jax.random.normal(of_directions, (*lead, blocks, width, width)))
        signs = jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))  # without them directions would not be uniform
        rows = jnp.swapaxes(directions * signs[..., None, :], -1, -2).reshape(*lead, blocks * width, width)
        lengths = jnp.linalg.norm(jax.random.normal(of_lengths, shape), axis=-1, keepdims=True)
        return (rows[..., :features, :] * lengths).astype(dtype)


class PerformerAttention(LinearAttention):
    """Self-attention of that kind. Its vectors are a parameter, which is not trained."""

    def _features(self, ctx: Context) -> jax.Array:
        """[F, C]; [B, F, C] where each row draws its own."""
        draw, shape = Orthogonal(), (self.kind.features, self.head_dim)
        fixed = parameter(self, "features", ParamSpec(shape, ("features", "head_dim"), init=draw))
        key = ctx.folded(_KEY)
        if not (self.kind.redraw and ctx.train and key is not None):
            return jax.lax.stop_gradient(fixed)
        return jax.vmap(lambda key: draw(key, shape, fixed.dtype))(key) if key.ndim else draw(key, shape, fixed.dtype)

    def _mapped(self, x: jax.Array, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x / self.head_dim**0.25
        letters = "BFC" if features.ndim == 3 else "FC"
        exponents = jnp.einsum(f"BTNC,{letters}->BTNF", x, features.astype(x.dtype))
        exponents -= jnp.sum(jnp.square(x), axis=-1, keepdims=True) / 2
        largest = jax.lax.stop_gradient(exponents.max(axis=-1, keepdims=True))
        return largest, jnp.exp(exponents - largest) / math.sqrt(exponents.shape[-1])
