# SPDX-License-Identifier: Apache-2.0
"""Linear maps: the only door to a product with a weight."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.models.layers.parameters import Constant, Normal, ParamSpec, parameter


def project(x: jax.Array, kernel: jax.Array, pattern: str) -> jax.Array:
    """Multiplies activations by a weight: an einsum such as "BTD,DHC->BTHC", in the activations' dtype."""
    return jnp.einsum(pattern, x, kernel.astype(x.dtype))


class Linear(nn.Module):
    """A linear map between named dimensions, with or without a bias.

    Attributes:
      pattern: the einsum, in the letters of the package's legend.
      in_shape, in_axes: sizes and logical names of the dimensions that are contracted.
      out_shape, out_axes: sizes and names of those produced.
      use_bias: whether to add a bias of shape `out_shape`.
      scale: multiplies the initial standard deviation 1 / sqrt(fan-in).
    """

    pattern: str
    in_shape: tuple[int, ...]
    in_axes: tuple[str, ...]
    out_shape: tuple[int, ...]
    out_axes: tuple[str, ...]
    use_bias: bool = False
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        spec = ParamSpec(
            shape=self.in_shape + self.out_shape,
            axes=self.in_axes + self.out_axes,
            in_axes=self.in_axes,
            out_axes=self.out_axes,
            init=Normal(self.scale / math.sqrt(math.prod(self.in_shape))),
        )
        y = project(x, parameter(self, "kernel", spec), self.pattern)
        if self.use_bias:
            bias = parameter(self, "bias", ParamSpec(self.out_shape, self.out_axes, init=Constant(0.0)))
            y = y + bias.astype(y.dtype)
        return y
