# SPDX-License-Identifier: Apache-2.0
"""What XLA:CPU has to be told, in one place; TPU and GPU never come here, nor do meshes of emulated devices.

Left to itself, XLA:CPU fuses a transposition into each weight gradient and computes what it transposes anew, back to
the last matrix product. Here products have two-dimensional operands, gradients that are written out, and keep what
enters and leaves them materialised.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

MOST_UNROLLED = 8  # layers that are not scanned unless the config says so
MOST_LOGITS = 2**21  # at once: 8 MiB of float32, which a cache holds


def product(x: jax.Array, kernel: jax.Array, pattern: str, dtype: DTypeLike) -> jax.Array:
    """An einsum whose contracted dimensions are x's last, such as "BTD,DHC->BTHC", as one product of two matrices.

    Args:
      x, kernel: operands of one dtype.
      pattern: of the einsum; its result has x's remaining dimensions, then the kernel's.
      dtype: of the result; products are summed in float32.
    """
    x_dims, kernel_dims, out_dims = pattern.replace("->", ",").split(",")
    contracted = [dim for dim in x_dims if dim in kernel_dims]
    produced = [dim for dim in kernel_dims if dim not in contracted]
    rows = x.shape[: -len(contracted)]
    if "".join([*x_dims[: len(rows)], *produced]) != out_dims:
        raise ValueError(f"{pattern}: expected contracted dimensions last in x, and the others in order in the result")
    size = math.prod(x.shape[len(rows) :])
    kernel = kernel.transpose([kernel_dims.index(dim) for dim in contracted + produced])
    y = _product(x.reshape(-1, size), kernel.reshape(size, -1))
    return y.reshape(*rows, *kernel.shape[len(contracted) :]).astype(dtype)


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
