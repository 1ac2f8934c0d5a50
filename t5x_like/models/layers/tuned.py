# SPDX-License-Identifier: Apache-2.0
"""What may stand for a kernel in `project` and `Linear`: the kernel with something small that is trained beside it.

low rank    y = x (W + s A B)                     `low_rank.py`
scaled      y = ((x * l) W + b) * m               IA3, Liu et al. 2022: l on what enters, m on what leaves
prefixed    y_t = r_t of the first positions t    prefix tuning, Li and Liang 2021
followed    y' = y + f(y D + d) U + u             bottleneck adapters, Houlsby et al. 2019, y = x W + b
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Scaled:
    """A kernel and the vectors that scale its input or its output with the bias; None: nothing does."""

    kernel: Any
    into: jax.Array | None
    out: jax.Array | None


@flax.struct.dataclass
class Followed:
    """A kernel whose output, [..., D] with the bias, passes a network of one hidden layer with a way around it."""

    kernel: Any
    down: jax.Array  # [D, width]
    down_bias: jax.Array
    up: jax.Array  # [width, D]
    up_bias: jax.Array
    activation: str = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Prefixed:
    """A kernel of keys or values; those of the first positions are `rows`, [length, K, C], instead."""

    kernel: Any
    rows: jax.Array


@flax.struct.dataclass
class Prompted:
    """A table of tokens [V, D]; from token V on a row of `prompt`, [length, D], is meant."""

    table: Any
    prompt: jax.Array

    def take(self, tokens: jax.Array) -> jax.Array:
        """int [B, T] to [B, T, D]."""
        vocab_size = self.table.shape[0]
        rows = jnp.take(self.table, jnp.minimum(tokens, vocab_size - 1), axis=0)
        own = jnp.take(self.prompt, jnp.maximum(tokens - vocab_size, 0), axis=0).astype(rows.dtype)
        return jnp.where((tokens >= vocab_size)[..., None], own, rows)


ACTIVATIONS = {"relu": jax.nn.relu, "gelu_tanh": jax.nn.gelu, "silu": jax.nn.silu}


def entering(x: jax.Array, kernel: Any) -> jax.Array:
    """What the kernel's own product takes."""
    return x * kernel.into.astype(x.dtype) if isinstance(kernel, Scaled) and kernel.into is not None else x


def leaving(y: jax.Array, kernel: Any, positions: jax.Array | None = None) -> jax.Array:
    """What becomes of the product with its bias; `positions` are int [B, T]."""
    if isinstance(kernel, Prefixed):
        assert positions is not None
        count = kernel.rows.shape[0]
        rows = jnp.take(kernel.rows, jnp.minimum(positions, count - 1), axis=0)
        return jnp.where((positions < count)[..., None, None], rows.astype(y.dtype), y)
    if isinstance(kernel, Scaled) and kernel.out is not None:
        return y * kernel.out.astype(y.dtype)
    if isinstance(kernel, Followed):
        down, down_bias, up, up_bias = (
            part.astype(y.dtype) for part in (kernel.down, kernel.down_bias, kernel.up, kernel.up_bias)
        )
        return y + jnp.einsum("...m,md->...d", ACTIVATIONS[kernel.activation](y @ down + down_bias), up) + up_bias
    return y
