# SPDX-License-Identifier: Apache-2.0
"""FlashAttention-2 (Dao 2023) as a Pallas kernel for GPU that skips the blocks of keys no query of a block may look at.

A block is skipped for causality, for a window, and because its documents are others: of a packed row the work is what
the documents take by themselves. Query heads that share a key/value head read it where it lies. On CPU the kernel is
interpreted, for checks.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from t5x_like.models.layers.masks import MASKED

SMALLEST = 64  # a block of queries or keys; lengths are its multiples
_PADDING = jnp.iinfo(jnp.int32).max  # segment 0 comes last in a row, so blocks' ranges of segments stay narrow


class How(NamedTuple):
    """What a call is traced for; see `attention.attend`."""

    causal: bool
    window: int | None
    soft_cap: float | None
    interpret: bool

    def seen(self, q_index: jax.Array, k_index: jax.Array) -> jax.Array | None:
        """Whether queries may look at keys for causality and the window, by two indices that broadcast."""
        behind = q_index - k_index
        allowed = behind >= 0 if self.causal else None
        if self.window is not None:
            near = behind < self.window if self.causal else jnp.abs(behind) < self.window
            allowed = near if allowed is None else allowed & near
        return allowed


class Operands(NamedTuple):
    """Of a call: q [B, H, T, C], scaled; k and v [B, K, S, C]; int32 segments [B, T] and [B, S]; ALiBi's slopes [H]."""

    q: Any
    k: Any
    v: Any
    q_segments: Any = None
    kv_segments: Any = None
    slopes: Any = None


def flash(x: Operands, how: How) -> jax.Array:
    """softmax(cap(q k^T) - slope |distance|, over the keys that are allowed) v, [B, H, T, C]; 0 where none is. T and S
    are multiples of `SMALLEST`; C may be anything, and is filled with zeros to a power of two."""
    width = x.q.shape[-1]
    power = max(16, 1 << (width - 1).bit_length())
    if power != width:
        rest = [(0, 0)] * 3 + [(0, power - width)]
        x = x._replace(q=jnp.pad(x.q, rest), k=jnp.pad(x.k, rest), v=jnp.pad(x.v, rest))
    return _flash(x, how)[..., :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _flash(x: Operands, how: How) -> jax.Array:
    return _forward(x, how)[0]


def _forward(x: Operands, how: How) -> tuple[jax.Array, tuple[Operands, jax.Array, jax.Array]]:
    batch, heads, length, _ = x.q.shape
    rows, keys = SMALLEST if length % (2 * SMALLEST) else 2 * SMALLEST, SMALLEST
    grid = (length // rows, heads, batch)
    of_queries = _Specs(x, rows, queries_in_blocks=True)
    out, lse = _call(
        _forward_kernel,
        (*ranges(x, how, rows, keys), x),
        how,
        grid,
        in_specs=(of_queries.bound, of_queries.bound, of_queries.operands()),
        out_specs=(of_queries.queries, of_queries.statistic),
        out_shape=(x.q, jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)),
    )
    return out, (x, out, lse)


def _backward(how: How, kept: tuple[Operands, jax.Array, jax.Array], d_out: jax.Array) -> tuple[Operands]:
    x, out, lse = kept
    batch, heads, length, _ = x.q.shape
    kv_heads, kv_length = x.k.shape[1:3]
    delta = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)  # [B, H, T]
    block = SMALLEST

    def call(kernel: Any, specs: _Specs, of_keys: bool, grid: tuple[int, ...], **outs: Any) -> Any:
        in_specs = specs.bound, specs.bound, specs.operands(), specs.queries, specs.statistic, specs.statistic
        operands = *ranges(x, how, block, block, of_keys=of_keys), x, d_out, lse, delta
        return _call(kernel, operands, how, grid, in_specs=in_specs, **outs)

    of_queries, of_keys = (_Specs(x, block, queries_in_blocks=of_queries) for of_queries in (True, False))
    grid = length // block, heads, batch
    d_q = call(_d_q_kernel, of_queries, False, grid, out_specs=of_queries.queries, out_shape=x.q)
    grid = kv_length // block, kv_heads, batch
    d_kv = call(_d_kv_kernel, of_keys, True, grid, out_specs=(of_keys.keys, of_keys.keys), out_shape=(x.k, x.v))
    return (Operands(d_q, *d_kv),)


_flash.defvjp(_forward, _backward)


def ranges(x: Operands, how: How, rows: int, keys: int, of_keys: bool = False) -> tuple[jax.Array, jax.Array]:
    """The first block of keys that each block of `rows` queries visits, and the one after the last: [B, T / rows]. With
    `of_keys` the blocks of queries that each block of keys visits, [B, S / keys]."""
    first_q = jnp.arange(0, x.q.shape[2], rows)[:, None]
    first_k = jnp.arange(0, x.k.shape[2], keys)[None, :]
    visit = jnp.ones((1, first_q.shape[0], first_k.shape[1]), bool)
    if how.causal:
        visit &= first_k <= first_q + rows - 1
    if how.window is not None:
        visit &= first_q - (first_k + keys - 1) < how.window
        if not how.causal:
            visit &= first_k - (first_q + rows - 1) < how.window
    if x.q_segments is not None:
        low_q, high_q = _extremes(x.q_segments, rows)
        low_k, high_k = _extremes(x.kv_segments, keys)
        visit &= (low_q[:, :, None] <= high_k[:, None, :]) & (low_k[:, None, :] <= high_q[:, :, None])
    visit = jnp.broadcast_to(visit, (x.q.shape[0], *visit.shape[1:]))
    if of_keys:
        visit = visit.swapaxes(1, 2)
    count = visit.shape[2]
    end = jnp.where(visit.any(axis=2), count - jnp.argmax(visit[:, :, ::-1], axis=2), 0)
    return jnp.argmax(visit, axis=2).astype(jnp.int32), end.astype(jnp.int32)


def _extremes(segments: jax.Array, block: int) -> tuple[jax.Array, jax.Array]:
    blocks = jnp.where(segments == 0, _PADDING, segments).reshape(segments.shape[0], -1, block)
    return blocks.min(axis=2), blocks.max(axis=2)


class _Specs:
    """What a program of a grid (blocks, heads, batch) sees of each array: its own block, or a whole row."""

    def __init__(self, x: Operands, block: int, queries_in_blocks: bool) -> None:
        from jax.experimental.pallas import BlockSpec  # slow to import, for GPU only

        length, width = x.q.shape[2:]
        kv_length, group = x.k.shape[2], x.q.shape[1] // x.k.shape[1]
        self._has = x
        self.bound = BlockSpec((None, None), lambda i, h, b: (b, i))
        self.slope = BlockSpec((None,), lambda i, h, b: (h,))
        if queries_in_blocks:  # by query heads
            self.queries = BlockSpec((None, None, block, width), lambda i, h, b: (b, h, i, 0))
            self.statistic = BlockSpec((None, None, block), lambda i, h, b: (b, h, i))
            self.keys = BlockSpec((None, None, kv_length, width), lambda i, h, b: (b, h // group, 0, 0))
            self.q_segments = BlockSpec((None, block), lambda i, h, b: (b, i))
            self.kv_segments = BlockSpec((None, kv_length), lambda i, h, b: (b, 0))
        else:  # by key/value heads, with all query heads of each
            self.queries = BlockSpec((None, group, length, width), lambda i, h, b: (b, h, 0, 0))
            self.statistic = BlockSpec((None, group, length), lambda i, h, b: (b, h, 0))
            self.keys = BlockSpec((None, None, block, width), lambda i, h, b: (b, h, i, 0))
            self.q_segments = BlockSpec((None, length), lambda i, h, b: (b, 0))
            self.kv_segments = BlockSpec((None, block), lambda i, h, b: (b, i))
            self.slope = BlockSpec((group,), lambda i, h, b: (h,))

    def operands(self) -> Operands:
        specs = Operands(self.queries, self.keys, self.keys, self.q_segments, self.kv_segments, self.slope)
        return Operands(*(None if has is None else spec for has, spec in zip(self._has, specs, strict=True)))


def _call(kernel: Any, operands: Any, how: How, grid: tuple[int, ...], **specs: Any) -> Any:
    from jax.experimental import pallas
    from jax.experimental.pallas import triton

    warps = 4 if operands[2].q.shape[-1] <= 64 else 8
    return pallas.pallas_call(
        functools.partial(kernel, how),
        grid=grid,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=2),
        interpret=how.interpret,
        name=kernel.__name__.strip("_"),
        **specs,
    )(*operands)


def _forward_kernel(how: How, first: Any, end: Any, x: Operands, out: Any, lse: Any) -> None:
    rows, width = x.q.shape
    q, q_index = x.q[...], _indices(_program(0), rows)
    q_segments = None if x.q_segments is None else x.q_segments[...]
    slope = None if x.slopes is None else x.slopes[...]

    def visit(block: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        total, top, sums = carry
        keys = _slice(block)
        kv_segments = None if x.kv_segments is None else x.kv_segments[keys]
        logits, seen, _ = _logits(how, q, x.k[keys, :], (q_index, _indices(block)), (q_segments, kv_segments), slope)
        new_top = jnp.maximum(top, jnp.max(jnp.where(seen, logits, MASKED), axis=1))
        weights = jnp.where(seen, jnp.exp(logits - new_top[:, None]), 0.0)
        shrink = jnp.exp(top - new_top)
        v = x.v[keys, :]
        total = total * shrink[:, None] + _product(weights.astype(v.dtype), v)
        return total, new_top, sums * shrink + jnp.sum(weights, axis=1)

    start = jnp.zeros((rows, width), jnp.float32), jnp.full((rows,), MASKED), jnp.zeros((rows,), jnp.float32)
    total, top, sums = jax.lax.fori_loop(first[...], end[...], visit, start)
    some = sums > 0
    out[...] = (total / jnp.where(some, sums, 1.0)[:, None]).astype(out.dtype)
    lse[...] = jnp.where(some, top + jnp.log(jnp.where(some, sums, 1.0)), -MASKED)  # weights of 0 when alone


def _d_q_kernel(how: How, first: Any, end: Any, x: Operands, d_out: Any, lse: Any, delta: Any, d_q: Any) -> None:
    rows, width = x.q.shape
    q, d_out, lse, delta = x.q[...], d_out[...], lse[...], delta[...]
    q_index = _indices(_program(0), rows)
    q_segments = None if x.q_segments is None else x.q_segments[...]
    slope = None if x.slopes is None else x.slopes[...]

    def visit(block: jax.Array, total: jax.Array) -> jax.Array:
        keys = _slice(block)
        kv_segments = None if x.kv_segments is None else x.kv_segments[keys]
        k, both = x.k[keys, :], (q_index, _indices(block))
        logits, seen, steep = _logits(how, q, k, both, (q_segments, kv_segments), slope)
        _, d_logits = _gradients(logits, seen, steep, d_out, x.v[keys, :], lse, delta)
        return total + _product(d_logits.astype(k.dtype), k)

    total = jax.lax.fori_loop(first[...], end[...], visit, jnp.zeros((rows, width), jnp.float32))
    d_q[...] = total.astype(d_q.dtype)


def _d_kv_kernel(
    how: How, first: Any, end: Any, x: Operands, d_out: Any, lse: Any, delta: Any, d_k: Any, d_v: Any
) -> None:
    (group, _, width), keys = x.q.shape, x.k.shape[0]
    k, v, k_index = x.k[...], x.v[...], _indices(_program(0), keys)
    kv_segments = None if x.kv_segments is None else x.kv_segments[...]
    first_block, count = first[...], end[...] - first[...]

    def visit(turn: jax.Array, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        head, block = jax.lax.div(turn, count), first_block + jax.lax.rem(turn, count)
        rows = _slice(block)
        q, d_rows = x.q[head, rows, :], d_out[head, rows, :]
        q_segments = None if x.q_segments is None else x.q_segments[rows]
        slope = None if x.slopes is None else x.slopes[head]
        logits, seen, steep = _logits(how, q, k, (_indices(block), k_index), (q_segments, kv_segments), slope)
        weights, d_logits = _gradients(logits, seen, steep, d_rows, v, lse[head, rows], delta[head, rows])
        d_k, d_v = totals
        d_k += _product(d_logits.astype(q.dtype), q, of_rows=True)
        return d_k, d_v + _product(weights.astype(d_rows.dtype), d_rows, of_rows=True)

    zeros = jnp.zeros((keys, width), jnp.float32)
    totals = jax.lax.fori_loop(0, group * count, visit, (zeros, zeros))
    d_k[...], d_v[...] = (total.astype(y.dtype) for total, y in zip(totals, (d_k, d_v), strict=True))


def _program(axis: int) -> jax.Array:
    from jax.experimental import pallas

    return pallas.program_id(axis)


def _slice(block: jax.Array) -> Any:
    from jax.experimental import pallas

    return pallas.ds(block * SMALLEST, SMALLEST)


def _indices(block: jax.Array, size: int = SMALLEST) -> jax.Array:
    return block * size + jnp.arange(size)


def _logits(
    how: How,
    q: jax.Array,
    k: jax.Array,
    indices: tuple[jax.Array, jax.Array],
    segments: tuple[jax.Array | None, jax.Array | None],
    slope: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Logits of a block of queries and one of keys, who may look, and the slope of the cap, if there is one."""
    logits, steep = _product(q, k, transposed=True), None
    if how.soft_cap is not None:
        part = jnp.tanh(logits / how.soft_cap)
        logits, steep = how.soft_cap * part, 1.0 - part * part
    q_index, k_index = indices[0][:, None], indices[1][None, :]
    if slope is not None:
        logits -= slope * jnp.abs(q_index - k_index).astype(jnp.float32)
    seen = how.seen(q_index, k_index)
    if segments[0] is not None and segments[1] is not None:
        same = segments[0][:, None] == segments[1][None, :]
        seen = same if seen is None else seen & same
    return logits, jnp.full(logits.shape, True) if seen is None else seen, steep


def _gradients(
    logits: jax.Array,
    seen: jax.Array,
    steep: jax.Array | None,
    d_out: jax.Array,
    v: jax.Array,
    lse: jax.Array,
    delta: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The weights of a block, and the gradient of the products of its queries and keys."""
    weights = jnp.where(seen, jnp.exp(logits - lse[:, None]), 0.0)
    d_logits = weights * (_product(d_out, v, transposed=True) - delta[:, None])
    return weights, d_logits if steep is None else d_logits * steep


def _product(x: jax.Array, y: jax.Array, *, transposed: bool = False, of_rows: bool = False) -> jax.Array:
    """x y, x y^T if `transposed`, x^T y if it goes `of_rows`; in float32."""
    contract = ((0 if of_rows else 1,), (1 if transposed else 0,))
    return jax.lax.dot_general(x, y, (contract, ((), ())), preferred_element_type=jnp.float32)
