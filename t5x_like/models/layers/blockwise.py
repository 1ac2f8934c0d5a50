# SPDX-License-Identifier: Apache-2.0
"""Attention a block of queries and a block of keys at a time, so that no [T, S] matrix ever exists.

Rabe & Staats 2021, "Self-attention does not need O(n^2) memory", with the equations of FlashAttention-2 (Dao 2023). A
row's softmax is kept as three numbers while its keys go by: the largest logit m so far, l = sum exp(s - m), and
sum exp(s - m) v. The backward pass computes the weights anew from the saved L = m + log l:

    p = exp(s - L)      dv = p^T do      ds = p * (do v^T - rowsum(o * do))      dq = ds k      dk = ds^T q

Blocks that the mask rules out as a whole, the future of a causal mask and what lies before a window, are never
visited, forward or backward: half of the work of causal attention.

`forward_part` and `backward_part` do so for some of a query's keys, for `parallel/ring.py`, where others lie on other
devices: parts' outputs and L are merged, and the weights of the backward pass follow from the L of all keys.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Marks, MaskSpec
from t5x_like.models.layers.biases import Bias, for_rows
from t5x_like.models.layers.masks import MASKED, conditions, distance, for_groups

# The largest logit of no keys, and the log of their sum of exponentials; above MASKED: exp(MASKED - NO_KEYS) is 0.
NO_KEYS = -1e20


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How the work is cut: into as few blocks as their greatest lengths allow, as equal as can be, the last padded."""

    queries: int
    keys: int
    # Whether key/value heads are worked off one after the other, for a working set that stays in a CPU's cache. A mesh
    # that cuts batch or heads must not: it would have to pass every head to every device.
    one_head: bool = False
    widen: bool = False  # casts operands: XLA:CPU has no batched bfloat16 product with a float32 result

    def fitted(self, length: int, kv_length: int) -> "Blocks":
        """The blocks that are taken for T queries and S keys."""

        def even(length: int, most: int) -> int:
            return -(-length // -(-length // most))

        return dataclasses.replace(self, queries=even(length, self.queries), keys=even(kv_length, self.keys))


def blocks_for(mask: MaskSpec, one_cpu: bool, widen: bool) -> Blocks:
    """The blocks for a call. Measured on two cores: 512 by 512 logits of one head keep both at work, and still stay in
    the cache; where a narrow window rules most of such a block out, smaller ones waste less."""
    size = 128 if one_cpu and mask.window is not None and mask.window < 512 else 512
    return Blocks(size, size, one_head=one_cpu, widen=widen)


class Sizes(NamedTuple):
    """What is known when the program is traced."""

    blocks: Blocks
    mask: MaskSpec  # without arrays
    ahead: bool  # this is `looks_ahead` of the mask with its arrays, the next its `reach`
    reach: int | None
    kv_length: int  # counts the keys before padding
    scale: float  # 1 / sqrt(C)
    wide: DTypeLike  # of logits, weights and sums
    soft_cap: float | None = None  # see `attend`
    partial: bool = False  # whether the results are added to those of other parts, and so stay wide

    @classmethod
    def of(cls, blocks: Blocks, mask: MaskSpec, kv_length: int, width: int, wide: DTypeLike, **more: Any) -> "Sizes":
        rule = MaskSpec(mask.causal, mask.window, mask.dilation)
        return cls(blocks, rule, mask.looks_ahead, mask.reach, kv_length, width**-0.5, jnp.dtype(wide), **more)

    def result(self, dtype: DTypeLike) -> DTypeLike:
        return self.wide if self.partial else dtype

    def keys_of(self, i: jax.Array, offset: jax.Array, kv_length: int) -> tuple[jax.Array, jax.Array]:
        """First and one past the last block of keys that queries of block i may look at."""
        behind, ahead = self._sides
        first, size = offset + i * self.blocks.queries, self.blocks.queries
        return _range(first, size, behind, ahead, self.blocks.keys, kv_length)

    def queries_of(self, j: jax.Array, offset: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
        """First and one past the last block of queries that may look at keys of block j."""
        behind, ahead = self._sides
        first, size = j * self.blocks.keys - offset, self.blocks.keys
        return _range(first, size, ahead, behind, self.blocks.queries, length)

    @property
    def _sides(self) -> tuple[int | None, int | None]:
        """How far behind and ahead of itself a query may look; None: any distance."""
        far = None if self.reach is None else self.reach - 1
        return far, far if self.ahead else 0


def _range(
    first: jax.Array, size: int, behind: int | None, ahead: int | None, block: int, length: int
) -> tuple[jax.Array, jax.Array]:
    """First and one past the last block that lies so near to [first, first + size)."""
    number = length // block
    low = 0 if behind is None else (first - behind) // block
    high = number if ahead is None else (first + size - 1 + ahead) // block + 1
    return jnp.clip(low, 0, number), jnp.clip(high, 0, number)


class Arrays(NamedTuple):
    """Operands, heads leading, so that products are plain batched ones."""

    q: jax.Array  # [B, K, G, T, C]
    k: jax.Array  # [B, K, S, C], as v
    v: jax.Array
    bias: Bias | None
    q_marks: Marks
    kv_marks: Marks
    offset: jax.Array  # of the first query among the keys; below 0 where all of them are before the first key


def blockwise(q: jax.Array, k: jax.Array, v: jax.Array, **how: Any) -> jax.Array:
    """`attend` in O(T + S) memory; `how` is as `blockwise_part` has it.

    Returns:
      [B, T, H, C], in q's dtype. A query that may look at no key gets 0.
    """
    return blockwise_part(q, k, v, **how, partial=False)[0].astype(q.dtype)


def blockwise_part(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: MaskSpec,
    bias: Bias | None = None,
    soft_cap: float | None = None,
    wide: DTypeLike = jnp.float32,
    blocks: Blocks,
    partial: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """`blockwise` over some of a query's keys, and the log sum exp of their logits, without `mask.allowed`.

    `wide` is the dtype of logits, weights and sums, and of the result where it is `partial`: added to other parts'.

    Returns:
      [B, T, H, C] and [B, T, H], both to be differentiated; for a query that may look at none of the keys 0 and a
      number that changes no other part.
    """
    assert mask.allowed is None
    blocks = blocks.fitted(q.shape[1], k.shape[1])
    if blocks.widen:
        q, k, v = (x.astype(wide) for x in (q, k, v))
    sizes = Sizes.of(blocks, mask, k.shape[1], q.shape[3], wide, soft_cap=soft_cap, partial=partial)
    out, logsumexp = _attention(sizes, heads_first(q, k, v, mask, bias))
    return heads_last(out), heads_last(logsumexp[..., None])[..., 0]


def heads_first(q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, bias: Bias | None) -> Arrays:
    """Arranges the operands of `attend`."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    shape = kv_heads, heads // kv_heads
    return Arrays(
        q.reshape(batch, length, *shape, width).transpose(0, 2, 3, 1, 4),
        k.transpose(0, 2, 1, 3),
        v.transpose(0, 2, 1, 3),
        bias,
        jax.tree.map(jnp.asarray, mask.q),
        jax.tree.map(jnp.asarray, mask.kv),
        jnp.asarray(mask.offset, jnp.int32),
    )


def heads_last(out: jax.Array) -> jax.Array:
    """[B, K, G, T, C] to [B, T, H, C]."""
    batch, kv_heads, groups, length, width = out.shape
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, kv_heads * groups, width)


def _pad(x: jax.Array, axis: int, block: int) -> jax.Array:
    missing = -x.shape[axis] % block
    return x if missing == 0 else jnp.pad(x, [(0, missing if d == axis else 0) for d in range(x.ndim)])


def _padded(arrays: Arrays, blocks: Blocks) -> Arrays:
    return arrays._replace(
        q=_pad(arrays.q, 3, blocks.queries),
        k=_pad(arrays.k, 2, blocks.keys),
        v=_pad(arrays.v, 2, blocks.keys),
        q_marks=jax.tree.map(lambda x: _pad(x, 1, blocks.queries), arrays.q_marks),
        kv_marks=jax.tree.map(lambda x: _pad(x, 1, blocks.keys), arrays.kv_marks),
    )


def forward_part(sizes: Sizes, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    """The output [B, K, G, T, C] over the keys given and the log sum exp of their logits [B, K, G, T]: 0 and a number
    that changes no other part for a query that may look at none of them."""
    length = arrays.q.shape[3]
    out, logsumexp = _by_head(sizes, _forward_heads, _padded(arrays, sizes.blocks))
    return out[:, :, :, :length], logsumexp[:, :, :, :length]


def backward_part(
    sizes: Sizes, arrays: Arrays, d_out: jax.Array, logsumexp: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """The gradients of q, k, v and the bias's weights through the keys given, by that of the output over all keys
    [B, K, G, T, C], and of all keys the logits' log sum exp and `delta`, rowsum(o * do), [B, K, G, T] each."""
    length, kv_length = arrays.q.shape[3], arrays.k.shape[2]
    rows = (_pad(x, 3, sizes.blocks.queries) for x in (d_out, logsumexp, delta))
    d_q, d_k, d_v, d_bias = _by_head(sizes, _backward_heads, _padded(arrays, sizes.blocks), *rows)
    return d_q[:, :, :, :length], d_k[:, :, :kv_length], d_v[:, :, :kv_length], d_bias


def row_sums(out: jax.Array, d_out: jax.Array, wide: DTypeLike) -> jax.Array:
    """rowsum(o * do): how much a row's weights would change its output if they all grew alike."""
    return jnp.sum(out.astype(wide) * d_out.astype(wide), axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(sizes: Sizes, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    return forward_part(sizes, arrays)


def _forward(sizes: Sizes, arrays: Arrays) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    out, logsumexp = forward_part(sizes, arrays)
    return (out, logsumexp), (arrays, out, logsumexp)


def _backward(sizes: Sizes, saved: tuple[Any, ...], d: tuple[jax.Array, jax.Array]) -> tuple[Arrays]:
    arrays, out, logsumexp = saved
    d_out, d_logsumexp = d
    delta = row_sums(out, d_out, sizes.wide) - d_logsumexp  # a logit's share of it is its weight
    d_q, d_k, d_v, d_bias = backward_part(sizes, arrays, d_out, logsumexp, delta)
    return (cotangents(arrays, d_q, d_k, d_v, d_bias),)


_attention.defvjp(_forward, _backward)


def cotangents(arrays: Arrays, d_q: jax.Array, d_k: jax.Array, d_v: jax.Array, d_weights: jax.Array | None) -> Arrays:
    """Gradients in the shape of the operands; what is not differentiated has none."""
    bias = None if arrays.bias is None else arrays.bias.replace(weights=d_weights)
    return Arrays(d_q, d_k, d_v, bias, None, None, None)  # type: ignore[arg-type]


def _by_head(sizes: Sizes, function: Callable[..., Any], arrays: Arrays, *others: jax.Array) -> Any:
    """function(sizes, arrays, *others), for all rows and heads at once or for one after the other."""
    if not sizes.blocks.one_head or arrays.bias is not None:
        return function(sizes, arrays, *others)
    batch, kv_heads = arrays.k.shape[:2]

    def flat(x: jax.Array) -> jax.Array:
        return x.reshape(batch * kv_heads, 1, 1, *x.shape[2:])

    def one(xs: tuple[jax.Array, ...]) -> Any:
        number, q, k, v, *rest = xs
        row = number // kv_heads
        marks = (jax.tree.map(lambda x: _block(x, 0, row, 1), each) for each in (arrays.q_marks, arrays.kv_marks))
        return function(sizes, Arrays(q, k, v, None, next(marks), next(marks), arrays.offset), *rest)

    numbers = jnp.arange(batch * kv_heads)
    results = jax.lax.map(one, (numbers, *map(flat, (arrays.q, arrays.k, arrays.v, *others))))
    return jax.tree.map(lambda x: x.reshape(batch, kv_heads, *x.shape[3:]), results)


def _block(x: jax.Array, axis: int, number: jax.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def _rows(x: jax.Array, i: jax.Array, size: int) -> jax.Array:
    """Block i of the queries of x [B, K, G, T, ...], for all heads that share keys: [B, K, X, ...]."""
    x = _block(x, 3, i, size)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _logits(
    sizes: Sizes, arrays: Arrays, q: jax.Array, k: jax.Array, i: jax.Array, j: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Of block i of the queries and block j of the keys: [B, K, X, S], masked, in the wide dtype.

    Returns also the derivative of what caps them, where something does.
    """
    blocks, slope = sizes.blocks, None
    logits = jnp.einsum("BKXC,BKSC->BKXS", q, k, preferred_element_type=sizes.wide) * sizes.scale
    if sizes.soft_cap is not None:
        capped = jnp.tanh(logits / sizes.soft_cap)
        logits, slope = sizes.soft_cap * capped, 1 - jnp.square(capped)
    q_index, k_index, *marks = places = _places(sizes, arrays, i, j)
    if arrays.bias is not None:
        logits += for_rows(arrays.bias, distance(*places), k.shape[1]).astype(sizes.wide)
    allowed = conditions(sizes.mask, q_index, k_index, *marks)
    if arrays.k.shape[2] != sizes.kv_length:  # padding is nobody's key
        real = jnp.broadcast_to(k_index < sizes.kv_length, (1, blocks.queries, blocks.keys))
        allowed = real if allowed is None else allowed & real
    allowed = for_groups(allowed, arrays.q.shape[2])
    return logits if allowed is None else jnp.where(allowed, logits, MASKED), slope


def _places(sizes: Sizes, arrays: Arrays, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array, Marks, Marks]:
    """Indices among the keys, and marks, of block i of the queries and block j of the keys."""
    rows, keys = sizes.blocks.queries, sizes.blocks.keys
    q_marks = jax.tree.map(lambda x: _block(x, 1, i, rows), arrays.q_marks)
    kv_marks = jax.tree.map(lambda x: _block(x, 1, j, keys), arrays.kv_marks)
    return arrays.offset + i * rows + jnp.arange(rows), j * keys + jnp.arange(keys), q_marks, kv_marks


def _forward_heads(sizes: Sizes, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    """Returns out [B, K, G, T, C] and log sum exp of the logits [B, K, G, T]."""
    q, k, v = arrays[:3]
    rows, keys = sizes.blocks.queries, sizes.blocks.keys

    def block_of_queries(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        q_i = _rows(q, i, rows)

        def see(j: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            total, norm, largest = sums
            s, _ = _logits(sizes, arrays, q_i, _block(k, 2, j, keys), i, j)
            above = jnp.maximum(largest, s.max(axis=-1))
            p = jnp.exp(s - above[..., None])
            shrink = jnp.exp(largest - above)
            more = jnp.einsum(
                "BKXS,BKSC->BKXC", p.astype(v.dtype), _block(v, 2, j, keys), preferred_element_type=sizes.wide
            )
            return total * shrink[..., None] + more, norm * shrink + p.sum(axis=-1), above

        zeros = jnp.zeros(q_i.shape, sizes.wide)
        start = zeros, zeros[..., 0], jnp.full_like(zeros[..., 0], NO_KEYS)
        total, norm, largest = jax.lax.fori_loop(*sizes.keys_of(i, arrays.offset, k.shape[2]), see, start)
        norm = jnp.where(norm == 0, 1, norm)  # of a query that may look at no key
        shape = *q.shape[:3], rows
        out = (total / norm[..., None]).astype(sizes.result(q.dtype)).reshape(*shape, -1)
        return out, (largest + jnp.log(norm)).reshape(shape)

    out, logsumexp = jax.lax.map(block_of_queries, jnp.arange(q.shape[3] // rows))
    return _joined(out, 3), _joined(logsumexp, 3)


def _backward_heads(
    sizes: Sizes, arrays: Arrays, d_out: jax.Array, logsumexp: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Returns the gradients of q, k, v and the bias's weights. Narrow operands stay narrow; sums are wide."""
    q, k, v, bias = arrays[:4]
    rows, keys = sizes.blocks.queries, sizes.blocks.keys
    product = partial(jnp.einsum, preferred_element_type=sizes.wide)

    def block_of_keys(sums: tuple[Any, ...], j: jax.Array) -> tuple[Any, Any]:
        k_j, v_j = _block(k, 2, j, keys), _block(v, 2, j, keys)

        def seen_by(i: jax.Array, sums: tuple[Any, ...]) -> tuple[Any, ...]:
            d_q, d_bias, d_k, d_v = sums
            q_i, d_out_i, logsumexp_i, delta_i = (_rows(x, i, rows) for x in (q, d_out, logsumexp, delta))
            logits, slope = _logits(sizes, arrays, q_i, k_j, i, j)
            p = jnp.exp(logits - logsumexp_i[..., None])
            d_v += product("BKXS,BKXC->BKSC", p.astype(d_out.dtype), d_out_i)
            d_s = p * (product("BKXC,BKSC->BKXS", d_out_i, v_j) - delta_i[..., None])
            if bias is not None:
                d_bias += _of_weights(bias, distance(*_places(sizes, arrays, i, j)), d_s)
            d_s = d_s if slope is None else d_s * slope
            d_s = (d_s * sizes.scale).astype(q.dtype)
            d_k += product("BKXS,BKXC->BKSC", d_s, q_i)
            d_q = _add_block(d_q, product("BKXS,BKSC->BKXC", d_s, k_j), (0, 0, 0, i * rows, 0), rows)
            return d_q, d_bias, d_k, d_v

        zeros = jnp.zeros(k_j.shape, sizes.wide)
        first, last = sizes.queries_of(j, arrays.offset, q.shape[3])
        *sums, d_k, d_v = jax.lax.fori_loop(first, last, seen_by, (*sums, zeros, zeros))
        return tuple(sums), (d_k.astype(sizes.result(k.dtype)), d_v.astype(sizes.result(v.dtype)))

    start = jnp.zeros(q.shape, sizes.wide), None if bias is None else jnp.zeros(bias.weights.shape, sizes.wide)
    (d_q, d_bias), (d_k, d_v) = jax.lax.scan(block_of_keys, start, jnp.arange(k.shape[2] // keys))
    return (
        d_q.astype(sizes.result(q.dtype)),
        _joined(d_k, 2),
        _joined(d_v, 2),
        None if bias is None or d_bias is None else d_bias.astype(sizes.result(bias.weights.dtype)),
    )


def _of_weights(bias: Bias, distance: jax.Array, d_logits: jax.Array) -> jax.Array:
    """The gradient of a bias's weights, given that of the logits [B, K, X, S] that it is added to."""

    def values(weights: jax.Array) -> jax.Array:
        return for_rows(bias.replace(weights=weights), distance, d_logits.shape[1]).astype(d_logits.dtype)

    alike = distance.shape[0] == 1  # in all rows of the batch
    (gradient,) = jax.vjp(values, bias.weights)[1](d_logits.sum(0, keepdims=True) if alike else d_logits)
    return gradient


def _add_block(whole: jax.Array, block: jax.Array, at: tuple[Any, ...], rows: int) -> jax.Array:
    """Adds [B, K, X, N] to a part of [B, K, G, T, ...]."""
    block = block.reshape(*whole.shape[:3], rows, block.shape[-1])
    return jax.lax.dynamic_update_slice(whole, jax.lax.dynamic_slice(whole, at, block.shape) + block, at)


def _joined(blocks: jax.Array, axis: int) -> jax.Array:
    """[N, ..., length of a block, ...] to [..., N * length of a block, ...]; `axis` counts in the result."""
    blocks = jnp.moveaxis(blocks, 0, axis)
    return blocks.reshape(*blocks.shape[:axis], -1, *blocks.shape[axis + 2 :])
