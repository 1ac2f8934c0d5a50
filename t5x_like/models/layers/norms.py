# SPDX-License-Identifier: Apache-2.0
"""LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.models.layers.parameters import Constant, ParamSpec, parameter
from t5x_like.models.remat import from_inputs


class Norm(nn.Module):
    """Normalises the last dimension; statistics in float32, the result in the input's dtype. "layernorm" subtracts the
    mean and divides by the standard deviation; "rmsnorm" divides by the root mean square."""

    kind: str
    epsilon: float
    use_bias: bool = False  # after the scale
    axis: str = "embed"  # logical name of the dimension
    around_one: bool = False  # the parameter is what the scale is above 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, axes = (x.shape[-1],), (self.axis,)
        scale = parameter(self, "scale", ParamSpec(shape, axes, init=Constant(0.0 if self.around_one else 1.0)))
        scale = 1 + scale if self.around_one else scale
        bias = [parameter(self, "bias", ParamSpec(shape, axes, init=Constant(0.0)))] if self.use_bias else []
        return from_inputs(partial(normalised, self.kind, self.epsilon))(x, scale, *bias)


def normalised(kind: str, epsilon: float, x: jax.Array, scale: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    y = x.astype(jnp.float32)
    if kind == "layernorm":
        y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon) * scale
    return (y if bias is None else y + bias).astype(x.dtype)
