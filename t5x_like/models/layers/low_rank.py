# SPDX-License-Identifier: Apache-2.0
"""A kernel with a low-rank update (LoRA, Hu et al. 2022), and with its columns' lengths apart (DoRA, Liu et al. 2024).

    LoRA    y = x (W + s A B)
    DoRA    y = x (W + s A B) * m / |W + s A B|        |.| of every output's column, taken as constant by the gradient

s is alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised (rsLoRA, Kalajdzievski 2023). `m` is kept over |W|,
so that it starts at 1 whatever W is.

Differs from the paper: DoRA trains m itself; over |W| an optimizer's step is the same share of every column.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5x_like.models.layers.quantised import as_array

RANK = "r"  # its letter in a pattern


@flax.struct.dataclass
class LowRank:
    """Stands for a kernel in `project`, whose pattern goes on naming the dimensions of the kernel alone. In A and B
    those come first that both the input and the output have, of experts say."""

    kernel: Any  # W, the dimensions contracted before those produced
    a: jax.Array  # A: the contracted dimensions and the rank
    b: jax.Array  # B: the rank and the produced ones
    magnitude: jax.Array | None  # m / |W|, the produced dimensions; None: no DoRA
    scale: float = flax.struct.field(pytree_node=False)  # s
    dropout_rate: float = flax.struct.field(pytree_node=False, default=0.0)  # of what A is multiplied by


def patterns(pattern: str) -> tuple[str, str, str]:
    """The einsums of x A, of that times B, and of A B, for the pattern of x W: "BTD,DHC->BTHC", say."""
    x, kernel, out = pattern.replace("->", ",").split(",")
    side = "".join(dim for dim in kernel if dim in x and dim in out)
    into = "".join(dim for dim in kernel if dim in x and dim not in out)
    produced = "".join(dim for dim in kernel if dim not in x)
    a, b = side + into + RANK, side + RANK + produced
    between = "".join(dim for dim in x if dim not in into) + RANK
    return f"{x},{a}->{between}", f"{between},{b}->{out}", f"{a},{b}->{kernel}"


def low_rank_product(x: jax.Array, y: jax.Array, low: LowRank, pattern: str, dropped: jax.Array) -> jax.Array:
    """What becomes of y = x W; `dropped` is what A is multiplied by, x or some of it."""
    into_rank, out_of_rank, _ = patterns(pattern)
    update = jnp.einsum(into_rank, dropped, low.a.astype(x.dtype))
    y = y + (low.scale * jnp.einsum(out_of_rank, update, low.b.astype(x.dtype))).astype(y.dtype)
    return y if low.magnitude is None else y * _lengths(low, pattern).astype(y.dtype)


def merged(low: LowRank, pattern: str) -> jax.Array:
    """The kernel that computes the same, in W's dtype."""
    kernel = _moved(low, pattern)
    if low.magnitude is not None:
        kernel = kernel * jnp.expand_dims(_lengths(low, pattern), _contracted(pattern))
    return kernel.astype(getattr(low.kernel, "dtype", jnp.float32))


def _moved(low: LowRank, pattern: str) -> jax.Array:
    """W + s A B, float32."""
    _, _, whole = patterns(pattern)
    update = jnp.einsum(whole, low.a.astype(jnp.float32), low.b.astype(jnp.float32))
    return as_array(low.kernel, pattern, jnp.float32).astype(jnp.float32) + low.scale * update


def _contracted(pattern: str) -> tuple[int, ...]:
    x, kernel, out = pattern.replace("->", ",").split(",")
    return tuple(i for i, dim in enumerate(kernel) if dim in x and dim not in out)


def _lengths(low: LowRank, pattern: str) -> jax.Array:
    """m over |W + s A B|: a kernel's dimensions without those contracted."""
    assert low.magnitude is not None
    whole = as_array(low.kernel, pattern, jnp.float32).astype(jnp.float32)
    kernels = whole, jax.lax.stop_gradient(_moved(low, pattern))
    own, now = (jnp.sqrt(jnp.square(kernel).sum(_contracted(pattern))) for kernel in kernels)
    return low.magnitude * own / now
