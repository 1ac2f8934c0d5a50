# SPDX-License-Identifier: Apache-2.0
"""What XLA:CPU has to be told, in one place; TPU and GPU never come here, nor do emulated devices when they train.

Left to itself, XLA:CPU fuses a transposition into each weight gradient and computes what it transposes anew, back to
the last matrix product. Here products have two-dimensional operands, gradients that are written out, and keep what
enters and leaves them materialised.

A product's right operand is copied into the order in which the kernels of XLA:CPU read it, its left one is read as it
lies. When the rows of activations are few, as when text is generated, it is the weight that should not be copied: it
goes to the left, for which its produced dimensions have to lead (`linear.Turned`).
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

MOST_UNROLLED = 8  # layers that are not scanned unless the config says so
MOST_LOGITS = 2**21  # at once: 8 MiB of float32, which a cache holds
MOST_ROWS_ON_THE_RIGHT = 64  # with 96 and more, a weight on the left is no faster


def product(x: jax.Array, kernel: jax.Array, pattern: str, dtype: DTypeLike) -> jax.Array:
    """An einsum whose contracted dimensions are x's last, such as "BTD,DHC->BTHC", as one product of two matrices.

    Its result, of `dtype`, has x's remaining dimensions, then the kernel's; products of both, which have one dtype, are
    summed in float32. Where the kernel's produced dimensions lead, few rows are multiplied with the kernel on the left.
    """
    x_dims, kernel_dims, out_dims = pattern.replace("->", ",").split(",")
    contracted = [dim for dim in x_dims if dim in kernel_dims]
    produced = [dim for dim in kernel_dims if dim not in contracted]
    rows = x.shape[: -len(contracted)]
    if "".join([*x_dims[: len(rows)], *produced]) != out_dims:
        raise ValueError(f"{pattern}: expected contracted dimensions last in x, and the others in order in the result")
    size = math.prod(x.shape[len(rows) :])
    x = x.reshape(-1, size)
    if [*kernel_dims] == produced + contracted:
        shape = *rows, *kernel.shape[: len(produced)]
        kernel = kernel.reshape(-1, size)
        few = x.shape[0] <= MOST_ROWS_ON_THE_RIGHT and x.dtype == jnp.float32
        y = _few_rows_product(x, kernel) if few else _product(x, kernel.T)
    else:
        kernel = kernel.transpose([kernel_dims.index(dim) for dim in contracted + produced])
        shape = *rows, *kernel.shape[len(contracted) :]
        y = _product(x, kernel.reshape(size, -1))
    return y.reshape(shape).astype(dtype)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, K] times [K, M]: float32 [N, M]."""
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # Only row-major products reach a processor's bfloat16 units, so those get their transposes made; float32 does not
    # care, but must not share the work that made its operands with other fusions.
    gradient = jax.lax.optimization_barrier(gradient.astype(x.dtype))
    if x.dtype == jnp.float32:
        d_x = jax.lax.dot_general(gradient, kernel, (((1,), (1,)), ((), ())))
        d_kernel = jax.lax.dot_general(x, gradient, (((0,), (0,)), ((), ())))
    else:
        d_x = _product(gradient, jax.lax.optimization_barrier(kernel.T))
        d_kernel = _product(jax.lax.optimization_barrier(x.T), gradient)
    return d_x.astype(x.dtype), d_kernel.astype(kernel.dtype)


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _backward)


@jax.custom_vjp
def _few_rows_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, K] times the transpose of [M, K]: [N, M]; differentiated it is `_product`. Without the barrier, the compiler
    would exchange the operands."""
    return jax.lax.optimization_barrier(jnp.matmul(kernel, x.T)).T


def _few_rows_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    d_x, d_kernel = _backward(saved, gradient)
    return d_x, d_kernel.T


_few_rows_product.defvjp(lambda x, kernel: (_product(x, kernel.T), (x, kernel.T)), _few_rows_backward)
