# SPDX-License-Identifier: Apache-2.0
"""Products whose operands are eight-bit floating-point numbers (Micikevicius et al. 2022, "FP8 formats for deep
learning"): E4M3 for activations and weights, E5M2 for gradients, each tensor with a scale of its own.

    x w    is computed as    (Q(x / s_x) Q(w / s_w)) s_x s_w      s = the tensor's largest magnitude / the format's

Scales are those of the tensors at hand ("current" scaling), so nothing is carried from step to step. Sums are float32.
Differs from the paper: the first and the last layer are no exception but for embeddings and logits, which are none.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2


def quantised(x: jax.Array, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """x in eight bits, and the float32 scale that it is to be multiplied by; zeros have scale 1."""
    most = float(jnp.finfo(dtype).max)
    largest = jnp.max(jnp.abs(x)).astype(jnp.float32)
    scale = jnp.where(largest > 0, largest / most, 1.0)
    return jnp.clip(x.astype(jnp.float32) / scale, -most, most).astype(dtype), scale


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(pattern: str, emulate: bool, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The einsum of x and a kernel, in x's dtype; both may be of any. `emulate` widens what has been quantised, for
    devices without such products: the numbers are the same."""
    return _forward(pattern, emulate, x, kernel)[0]


def _forward(
    pattern: str, emulate: bool, x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]]:
    (x_8, x_scale), (kernel_8, kernel_scale) = (quantised(y, FORWARD) for y in (x, kernel))
    y = _einsum(pattern, emulate, x_8, kernel_8) * (x_scale * kernel_scale)
    empty = jnp.zeros((0,), x.dtype), jnp.zeros((0,), kernel.dtype)  # their dtypes
    return y.astype(x.dtype), (x_8, x_scale, kernel_8, kernel_scale, *empty)


def _backward(pattern: str, emulate: bool, saved: tuple[jax.Array, ...], d_y: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_8, x_scale, kernel_8, kernel_scale, of_x, of_kernel = saved
    x_dims, kernel_dims, y_dims = pattern.replace("->", ",").split(",")
    d_8, d_scale = quantised(d_y, BACKWARD)
    d_x = _einsum(f"{y_dims},{kernel_dims}->{x_dims}", emulate, d_8, kernel_8) * (d_scale * kernel_scale)
    d_kernel = _einsum(f"{x_dims},{y_dims}->{kernel_dims}", emulate, x_8, d_8) * (x_scale * d_scale)
    return d_x.astype(of_x.dtype), d_kernel.astype(of_kernel.dtype)


def _einsum(pattern: str, emulate: bool, x: jax.Array, y: jax.Array) -> jax.Array:
    if emulate:
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.einsum(pattern, x, y, preferred_element_type=jnp.float32)


product.defvjp(_forward, _backward)
