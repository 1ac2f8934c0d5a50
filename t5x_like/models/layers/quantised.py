# SPDX-License-Identifier: Apache-2.0
"""Kernels in few bits. Inputs of an output that share a scale are a group; in every format

    W  is kept as  codes and scales,      W ~ value(code) scale,      scale = the group's largest magnitude

int8   value = code / 127                   one group: all inputs of an output (Dettmers et al. 2022, section 3)
fp8    value = code / 448, E4M3             the same
int4   value = (code - 8) / 7               groups of `block` inputs
nf4    quantiles of a normal distribution   the same (Dettmers et al. 2023, QLoRA, section 3)

Four-bit codes lie two in a byte, the earlier input in its upper half. With `double`, scales less their mean are in
eight bits themselves, in blocks of 256 (the same): 4.127 bits a parameter in all, with a block of 64.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from t5x_like.config.quantisation import Bf16Config, Int8Config, NF4Config, QuantisationConfig
from t5x_like.models.layers.levels import coded_blocks, decoded_blocks, level_of, nearest_level
from t5x_like.models.layers.parameters import Params
from t5x_like.models.layers.watched import Watched

# The 16 levels of QLoRA's appendix E.
_BELOW_ZERO = -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453
_NEAR_ZERO = -0.28444138169288635, -0.18477343022823334, -0.09105003625154495
_FROM_ZERO = 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224
_NEAR_ONE = 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0
NF4 = np.array(_BELOW_ZERO + _NEAR_ZERO + _FROM_ZERO + _NEAR_ONE, np.float32)
INT4 = ((np.arange(16) - 8) / 7).astype(np.float32)
LARGEST = {"int8": 127.0, "fp8": 448.0}
SMALLEST_BLOCK = 16
FEATURE = "f"  # its letter in a pattern


@flax.struct.dataclass
class Quantised:
    """Stands for a kernel whose dimensions are those beside a product, those contracted, those produced."""

    codes: jax.Array  # [side..., inputs, produced...]: all contracted dimensions as one, half as long of four-bit codes
    scales: jax.Array  # [side..., groups, produced...], float32, or uint8 where the next two, float32, code them
    second: jax.Array | None = None  # [side..., blocks]
    offset: jax.Array | None = None  # [side...]
    how: QuantisationConfig = flax.struct.field(pytree_node=False, default=NF4Config())
    into: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())  # sizes of the contracted dimensions
    produced: int = flax.struct.field(pytree_node=False, default=1)  # how many dimensions are


@flax.struct.dataclass
class Rounded:
    """Stands for a kernel that is trained through what the format makes of it."""

    kernel: Any
    how: QuantisationConfig = flax.struct.field(pytree_node=False)


def group_of(how: QuantisationConfig, inputs: int) -> int | None:
    """How many inputs share a scale; None: the format does not take a kernel of so many."""
    if how.kind in LARGEST or isinstance(how, Bf16Config):
        return inputs
    block = math.gcd(inputs, how.block)  # type: ignore[union-attr]
    return block if block >= SMALLEST_BLOCK else None


def rounded(x: jax.Array, how: QuantisationConfig) -> jax.Array:
    """The codes of numbers within [-1, 1]: int8, float8_e4m3fn, or uint8 below 16."""
    if how.kind == "int8":
        return jnp.clip(jnp.round(x * 127), -127, 127).astype(jnp.int8)
    if how.kind == "fp8":
        return jnp.clip(x * 448, -448, 448).astype(jnp.float8_e4m3fn)
    return nearest_level(x, NF4 if how.kind == "nf4" else INT4)


def value(codes: jax.Array, how: QuantisationConfig) -> jax.Array:
    """What codes stand for, float32."""
    if how.kind == "nf4":
        return level_of(codes, NF4)
    codes = codes.astype(jnp.float32)
    return codes / LARGEST[how.kind] if how.kind in LARGEST else (codes - 8) / 7


def encode(kernel: jax.Array, how: QuantisationConfig, into: Sequence[int], produced: int) -> Quantised:
    """Rounds every number of a kernel [side..., into..., produced...] to the nearest of its group's."""
    side = kernel.ndim - len(into) - produced
    flat = kernel.astype(jnp.float32).reshape(*kernel.shape[:side], -1, *kernel.shape[side + len(into) :])
    scales = group_scales(flat, how, produced)
    at = _inputs(flat, produced)
    spread = jnp.repeat(scales, flat.shape[at] // scales.shape[at], axis=at)
    codes = rounded(flat / jnp.where(spread > 0, spread, 1.0), how)
    return packed(codes, scales, how, into, produced)


def group_scales(flat: jax.Array, how: QuantisationConfig, produced: int) -> jax.Array:
    """The largest magnitude of every group of a kernel [side..., inputs, produced...]."""
    at = _inputs(flat, produced)
    group = group_of(how, flat.shape[at])
    assert group is not None
    return jnp.abs(flat.reshape(*flat.shape[:at], -1, group, *flat.shape[at + 1 :])).max(at + 1)


def packed(
    codes: jax.Array, scales: jax.Array, how: QuantisationConfig, into: Sequence[int], produced: int
) -> Quantised:
    """A kernel of codes, one for every number, and float32 scales."""
    at = _inputs(codes, produced)
    if how.kind not in LARGEST:
        upper, lower = (jax.lax.slice_in_dim(codes, i, None, 2, at) for i in (0, 1))
        codes = (upper << 4) | lower
    more: dict[str, Any] = {"how": how, "into": tuple(into), "produced": produced}
    if not getattr(how, "double", False):
        return Quantised(codes, scales, **more)
    side = scales.shape[:at]
    offset = scales.mean(tuple(range(at, scales.ndim)))
    in_order = jnp.moveaxis(scales, at, -1).reshape(*side, -1)  # those of an output one after the other
    coded, second = coded_blocks(in_order - offset[..., None], signed=True)
    last = jnp.moveaxis(coded.reshape(*side, *scales.shape[at + 1 :], -1), -1, at)
    return Quantised(codes, last, second, offset, **more)


def decode(kernel: Quantised, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """The kernel that codes stand for, [side..., into..., produced...]."""
    codes, at = kernel.codes, _inputs(kernel.codes, kernel.produced)
    if kernel.how.kind not in LARGEST:
        pairs = jnp.stack([codes >> 4, codes & 15], at + 1)
        codes = pairs.reshape(*codes.shape[:at], -1, *codes.shape[at + 1 :])
    scales = decoded_scales(kernel)
    grouped = codes.reshape(*scales.shape[: at + 1], -1, *scales.shape[at + 1 :])
    whole = value(grouped, kernel.how) * jnp.expand_dims(scales, at + 1)
    return whole.reshape(*codes.shape[:at], *kernel.into, *codes.shape[at + 1 :]).astype(dtype)


def decoded_scales(kernel: Quantised) -> jax.Array:
    """float32 [side..., groups, produced...]."""
    if kernel.second is None or kernel.offset is None:
        return kernel.scales
    at = _inputs(kernel.scales, kernel.produced)
    side, last = kernel.scales.shape[:at], jnp.moveaxis(kernel.scales, at, -1)
    values = decoded_blocks(last.reshape(*side, -1), kernel.second, signed=True) + kernel.offset[..., None]
    return jnp.moveaxis(values.reshape(last.shape), -1, at)


def product(x: jax.Array, kernel: Quantised, pattern: str) -> jax.Array:
    """x W in x's dtype for a format with one group: the scales multiply what is produced."""
    side, _, produced = _sides(pattern)
    shape = kernel.codes.shape
    codes = kernel.codes.reshape(*shape[: len(side)], *kernel.into, *shape[len(side) + 1 :])
    scales = kernel.scales.squeeze(len(side)) / LARGEST[kernel.how.kind]
    if isinstance(kernel.how, Int8Config) and kernel.how.activations:
        return _integers(pattern, kernel.how, x, codes, scales)
    if x.dtype == jnp.float16:  # whose range sums of codes would leave
        codes, scales = codes.astype(x.dtype) / LARGEST[kernel.how.kind], scales * LARGEST[kernel.how.kind]
    out = _parts(pattern)[2]
    y = jnp.einsum(pattern, x, codes.astype(x.dtype))
    return jnp.einsum(f"{out},{side}{produced}->{out}", y, scales.astype(x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _integers(pattern: str, how: Int8Config, x: jax.Array, codes: jax.Array, scales: jax.Array) -> jax.Array:
    """A product of eight-bit integers, but for the features of x that are outliers (LLM.int8(), section 3.2).

    Differs from the paper: at most `outliers` features are taken out, the largest, for a compiled program's shapes are
    fixed; where more reach the threshold the others are rounded.
    """
    side, inputs, produced = _sides(pattern)
    x_dims, _, out = _parts(pattern)
    wide = x.astype(jnp.float32)
    rest, y = _outliers_apart(wide, codes, how.outliers, how.threshold, pattern) if how.outliers else (wide, 0.0)
    contracted = tuple(i for i, dim in enumerate(x_dims) if dim in inputs)
    per_token = jnp.abs(rest).max(contracted, keepdims=True)
    x_codes = jnp.round(rest / jnp.where(per_token > 0, per_token, 1.0) * 127).astype(jnp.int8)
    whole = jnp.einsum(pattern, x_codes, codes, preferred_element_type=jnp.int32).astype(jnp.float32)
    tokens = "".join(dim for dim in x_dims if dim not in inputs)
    y = y + jnp.einsum(f"{out},{tokens}->{out}", whole, per_token.squeeze(contracted) / 127)
    return jnp.einsum(f"{out},{side}{produced}->{out}", y, scales).astype(x.dtype)


def _outliers_apart(
    x: jax.Array, codes: jax.Array, most: int, threshold: float, pattern: str
) -> tuple[jax.Array, jax.Array]:
    """x without its outliers, and what they add to the product with codes; the features of x come last."""
    side, inputs, produced = _sides(pattern)
    x_dims, _, out = _parts(pattern)
    beside = x_dims[: len(x_dims) - len(inputs)]
    features = x.reshape(*x.shape[: len(beside)], -1)
    largest = jnp.abs(features).max(tuple(range(len(beside))))
    top, which = jax.lax.top_k(largest, min(most, largest.size))
    apart = (top >= threshold).astype(jnp.float32)
    flat = codes.reshape(*codes.shape[: len(side)], -1, *codes.shape[len(side) + len(inputs) :])
    rows = jnp.take(flat, which, len(side)).astype(jnp.float32)
    few = f"{beside}{FEATURE},{side}{FEATURE}{produced}->{out}"
    y = jnp.einsum(few, jnp.take(features, which, -1) * apart, rows)
    return (features * jnp.ones_like(largest).at[which].add(-apart)).reshape(x.shape), y


def _integers_backward(pattern: str, how: Int8Config, saved: Any, d_y: jax.Array) -> Any:
    """As if x had not been rounded."""
    del how
    codes, scales, empty = saved
    side, _, produced = _sides(pattern)
    x_dims, kernel_dims, out = _parts(pattern)
    scaled = jnp.einsum(f"{out},{side}{produced}->{out}", d_y.astype(jnp.float32), scales)
    d_x = jnp.einsum(f"{out},{kernel_dims}->{x_dims}", scaled, codes.astype(jnp.float32))
    return d_x.astype(empty.dtype), None, None


_integers.defvjp(
    lambda pattern, how, x, codes, scales: (
        _integers(pattern, how, x, codes, scales),
        (codes, scales, jnp.zeros((0,), x.dtype)),
    ),
    _integers_backward,
)


def as_array(kernel: Any, pattern: str, dtype: DTypeLike) -> Any:
    """What a product with a kernel multiplies by; an array stays as it is."""
    if isinstance(kernel, Watched):  # where nothing can be watched
        return as_array(kernel.kernel, pattern, dtype)
    if isinstance(kernel, Quantised):
        return decode(kernel, dtype)
    if not isinstance(kernel, Rounded):
        return kernel
    side, inputs, produced = _sides(pattern)
    w = kernel.kernel
    into = w.shape[len(side) : len(side) + len(inputs)]
    if group_of(kernel.how, math.prod(into)) is None:
        return w
    return _straight(w, decode(encode(w, kernel.how, into, len(produced))).astype(w.dtype))


def seen(x: jax.Array, kernel: Any, pattern: str) -> jax.Array:
    """x as a product with a kernel that is trained through rounded values sees it."""
    if not isinstance(kernel, Rounded) or not getattr(kernel.how, "activations", False):
        return x
    contracted = tuple(i for i, dim in enumerate(_parts(pattern)[0]) if dim in _sides(pattern)[1])
    per_token = jnp.abs(x).max(contracted, keepdims=True).astype(jnp.float32)
    codes = jnp.round(x / jnp.where(per_token > 0, per_token, 1.0) * 127)
    return _straight(x, (codes * per_token / 127).astype(x.dtype))


def _straight(x: jax.Array, seen: jax.Array) -> jax.Array:
    return x + jax.lax.stop_gradient(seen - x)


def _parts(pattern: str) -> tuple[str, str, str]:
    x, kernel, out = pattern.replace("->", ",").split(",")
    return x, kernel, out


def _sides(pattern: str) -> tuple[str, str, str]:
    """Of the kernel's dimensions, those beside the product, those contracted, those produced."""
    x, kernel, out = _parts(pattern)
    side = "".join(dim for dim in kernel if dim in x and dim in out)
    return side, "".join(d for d in kernel if d in x and d not in out), "".join(d for d in kernel if d not in x)


def _inputs(flat: jax.Array, produced: int) -> int:
    return flat.ndim - produced - 1


def bits_of(params: Params) -> float:
    """Bits of a parameter in few bits, scales included; those of the narrowest array where there are none."""
    kept, count = 0, 0.0

    def walk(node: Any) -> None:
        nonlocal kept, count
        if isinstance(node, dict) and "codes" in node:
            kept += sum(part.nbytes for part in node.values())
            count += node["codes"].size * (2 if node["codes"].dtype == jnp.uint8 else 1)
        elif isinstance(node, dict):
            for child in node.values():
                walk(child)

    walk(params)
    return 8 * kept / count if count else 8.0 * min(leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
