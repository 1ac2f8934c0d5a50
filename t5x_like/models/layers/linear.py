# SPDX-License-Identifier: Apache-2.0
"""Linear maps: the only door to a product with a weight."""

import math
import zlib
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Context
from t5x_like.models.layers import cpu, fp8, quantised
from t5x_like.models.layers.embeddings import dropout
from t5x_like.models.layers.low_rank import LowRank, low_rank_product, merged
from t5x_like.models.layers.parameters import Attends, Constant, Normal, Params, ParamSpec, parameter
from t5x_like.models.layers.quantised import Quantised
from t5x_like.models.layers.tuned import Followed, Prefixed, Prompted, Scaled, entering, leaving
from t5x_like.models.layers.watched import Watched, watched
from t5x_like.models.remat import product


@flax.struct.dataclass
class Turned:
    """A kernel whose produced dimensions lead: what makes up one output lies side by side, as `layers/cpu.py` wants it.
    It may stand for the kernel of any `Linear`, whose pattern goes on naming the dimensions in their usual order."""

    kernel: jax.Array


def turned(specs: Params, params: Params) -> Params:
    """Turns the kernels of `Linear` layers among a block's parameters; the others stay. `specs` describes them."""

    def turn(spec: ParamSpec, leaf: Any) -> Any:
        if isinstance(leaf, Followed):
            return replace(leaf, kernel=turn(spec, leaf.kernel))
        if not isinstance(leaf, jax.Array) or not spec.is_matrix or spec.axes != spec.in_axes + spec.out_axes:
            return leaf
        into = len(spec.in_axes)
        return Turned(leaf.transpose(*range(into, leaf.ndim), *range(into)))

    return jax.tree.map(turn, specs, params, is_leaf=lambda node: isinstance(node, ParamSpec))


EightBits = Literal[None, "native", "emulated"]


def project(
    x: jax.Array,
    kernel: Any,
    pattern: str,
    dtype: DTypeLike | None = None,
    *,
    one_cpu: bool = False,
    eight_bits: EightBits = None,
    dropped: jax.Array | None = None,
) -> jax.Array:
    """Multiplies activations by a weight: an einsum such as "BTD,DHC->BTHC", in the activations' dtype.

    The kernel is an array, `Turned`, or what `layers/tuned.py` and `layers/quantised.py` name. With `dtype` operands
    stay as narrow as they are but the result is not rounded to them: bfloat16 logits would have two or three digits.
    With `one_cpu` the product is written as a single CPU device wants it. With `eight_bits` operands are rounded to as
    many, see `layers/fp8.py`. `dropped` is what the update of a `LowRank` sees of x; None: all of it.
    """
    if isinstance(kernel, Scaled | Followed | Prefixed):
        x, kernel = entering(x, kernel), kernel.kernel
    if isinstance(kernel, Prompted):
        kernel = kernel.table
    if isinstance(kernel, LowRank):
        y = project(x, kernel.kernel, pattern, dtype, one_cpu=one_cpu, eight_bits=eight_bits)
        return low_rank_product(x, y, kernel, pattern, x if dropped is None else dropped)
    if isinstance(kernel, Watched):
        x, kernel = watched(pattern, x, kernel.gram), kernel.kernel
    if isinstance(kernel, Quantised) and kernel.how.kind in quantised.LARGEST and eight_bits is None and dtype is None:
        return quantised.product(x, kernel, pattern)
    x, kernel = quantised.seen(x, kernel, pattern), quantised.as_array(kernel, pattern, x.dtype)
    x_dims, kernel_dims, out_dims = pattern.replace("->", ",").split(",")
    if isinstance(kernel, Turned):
        into = sum(dim in x_dims for dim in kernel_dims)
        kernel, kernel_dims = kernel.kernel, kernel_dims[into:] + kernel_dims[:into]
        pattern = f"{x_dims},{kernel_dims}->{out_dims}"
    if eight_bits is not None:
        return fp8.product(pattern, eight_bits == "emulated", x, kernel)
    kernel = kernel.astype(x.dtype)
    side_by_side = set(x_dims) & set(kernel_dims) & set(out_dims)  # many products, as those of experts
    if one_cpu and not side_by_side:
        return cpu.product(x, kernel, pattern, dtype or x.dtype)
    if dtype is None or x.dtype == dtype:
        return jnp.einsum(pattern, x, kernel)
    return _wide_product(pattern, dtype, x, kernel)


def whole(kernel: Any, pattern: str, dtype: DTypeLike) -> jax.Array:
    """The array that computes what a kernel does, for products that `project` does not do; without dropout."""
    if isinstance(kernel, LowRank):
        return merged(kernel, pattern).astype(dtype)
    return quantised.as_array(kernel, pattern, dtype)


def project_groups(x: jax.Array, kernel: jax.Array, sizes: jax.Array) -> jax.Array:
    """Multiplies the first `sizes[0]` rows of x [N, D] by the first matrix of the kernel [E, D, M], the next by the
    second, and so on: [N, M], in x's dtype; what rows past the sum of `sizes`, int32 [E], come to is not defined."""
    return jax.lax.ragged_dot(x, kernel.astype(x.dtype), sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _wide_product(pattern: str, dtype: DTypeLike, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum(pattern, x, kernel, preferred_element_type=dtype)


def _wide_backward(
    pattern: str, dtype: DTypeLike, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Narrow operands here too: autodiff alone would multiply by the wide gradient, at a wide product's price."""
    del dtype
    x, kernel = saved
    narrow = gradient.astype(x.dtype)
    (d_x,) = jax.linear_transpose(lambda x: jnp.einsum(pattern, x, kernel), x)(narrow)
    (d_kernel,) = jax.linear_transpose(lambda kernel: jnp.einsum(pattern, x, kernel), kernel)(narrow)
    return d_x, d_kernel


_wide_product.defvjp(
    lambda pattern, dtype, x, kernel: (_wide_product(pattern, dtype, x, kernel), (x, kernel)), _wide_backward
)


class Linear(nn.Module):
    """A linear map between named dimensions, with or without a bias."""

    pattern: str  # the einsum, in the letters of the package's legend
    in_shape: tuple[int, ...]  # sizes and logical names of the dimensions that are contracted
    in_axes: tuple[str, ...]
    out_shape: tuple[int, ...]  # and of those produced
    out_axes: tuple[str, ...]
    use_bias: bool = False  # of shape `out_shape`
    scale: float = 1.0  # multiplies the initial standard deviation 1 / sqrt(fan-in)
    stream: str = "own"  # see `ParamSpec`
    attends: Attends | None = None
    met: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context = Context()) -> jax.Array:
        spec = ParamSpec(
            shape=self.in_shape + self.out_shape,
            axes=self.in_axes + self.out_axes,
            in_axes=self.in_axes,
            out_axes=self.out_axes,
            init=Normal(self.scale / math.sqrt(math.prod(self.in_shape))),
            stream=self.stream,
            attends=self.attends,
            met=self.met,
        )
        eight_bits: EightBits = ("emulated" if ctx.platform == "cpu" else "native") if ctx.policy.fp8 else None
        kernel = parameter(self, "kernel", spec)
        dropped = self._dropped(x, kernel, ctx)
        y = product(project(x, kernel, self.pattern, one_cpu=ctx.one_cpu, eight_bits=eight_bits, dropped=dropped))
        if self.use_bias:
            spec = ParamSpec(self.out_shape, self.out_axes, init=Constant(0.0), stream=self.stream)
            y = y + parameter(self, "bias", spec).astype(y.dtype)
        return leaving(y, kernel, ctx.positions)

    def _dropped(self, x: jax.Array, kernel: Any, ctx: Context) -> jax.Array | None:
        """What a low-rank update sees of x, by a key of this map."""
        if not isinstance(kernel, LowRank) or not kernel.dropout_rate:
            return None
        return dropout(x, kernel.dropout_rate, ctx.folded(zlib.crc32("/".join(self.path).encode())), ctx.train)
