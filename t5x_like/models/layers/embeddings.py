# SPDX-License-Identifier: Apache-2.0
"""Tables of embeddings, and the dropout that follows them."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Normal, ParamSpec, parameter
from t5x_like.models.layers.tuned import Prompted


class Embedding(nn.Module):
    """A table of `size` rows of width D, looked up by integer."""

    size: int
    width: int
    axis: str  # logical name of the rows: "vocab" for tokens, "positions" for positions
    stddev: float  # of the initial values

    @nn.compact
    def __call__(self, indices: jax.Array, ctx: Context = Context()) -> jax.Array:
        shape, named, init = (self.size, self.width), (self.axis, "embed"), Normal(self.stddev)
        spec = ParamSpec(shape, named, (self.axis,), ("embed",), init, lookup=True)
        # As an activation, so that its width is whole: the compiler cannot look up in a table that is cut both ways.
        table, axes = parameter(self, "embedding", spec), f"{self.axis} embed"
        if isinstance(table, Prompted):
            return Prompted(ctx.constrain(table.table, axes), table.prompt).take(indices)
        return jnp.take(ctx.constrain(table, axes), indices, axis=0)


def dropout(x: jax.Array, rate: float, key: jax.Array | None, train: bool) -> jax.Array:
    """Zeroes a fraction `rate` of x and scales the rest up (Srivastava et al. 2014); identity outside training."""
    if not train or rate == 0.0:
        return x
    if key is None:
        raise ValueError("dropout in training needs a key: model.apply(..., key=key, train=True)")
    kept = draw(lambda key, shape: jax.random.bernoulli(key, 1 - rate, shape), key, x.shape)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))


def draw(
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array], key: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    """sample(key, shape); with a key for each row, every row by its own, whatever the microbatches and the mesh."""
    return jax.vmap(lambda key: sample(key, shape[1:]))(key) if key.ndim else sample(key, shape)
