# SPDX-License-Identifier: Apache-2.0
"""What enters a kernel, gathered as a gradient: X^T X over all tokens of a batch, the Hessian of GPTQ.

A `Watched` kernel computes what the kernel does. The gradient of its `gram`, whatever is differentiated, is X^T X: so
one backward pass gathers those of all layers, scanned, sharded or rematerialised as they may be.
"""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Watched:
    """Stands for a kernel; `gram` is of zeros, float32 [side..., inputs, inputs]."""

    kernel: Any
    gram: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def watched(pattern: str, x: jax.Array, gram: jax.Array) -> jax.Array:
    """x itself; `pattern` is that of its product with the kernel."""
    del pattern, gram
    return x


def _backward(pattern: str, saved: tuple[jax.Array, tuple[int, ...]], d_x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, shape = saved
    x_dims, kernel, out = pattern.replace("->", ",").split(",")
    side = "".join(dim for dim in kernel if dim in x_dims and dim in out)
    inputs = "".join(dim for dim in kernel if dim in x_dims and dim not in out)
    tokens = "".join(dim for dim in x_dims if dim not in side + inputs)
    rows = jnp.einsum(f"{x_dims}->{side}{tokens}{inputs}", x.astype(jnp.float32))
    rows = rows.reshape(*rows.shape[: len(side)], -1, shape[-1])
    return d_x, jnp.einsum("...NI,...NJ->...IJ", rows, rows)


watched.defvjp(lambda pattern, x, gram: (x, (x, gram.shape)), _backward)
