# SPDX-License-Identifier: Apache-2.0
"""Ring attention (Liu et al. 2023): attention over a length that is cut over the mesh's `seq` axis.

Each of n devices holds T/n queries and S/n keys. Keys and values go round a ring of devices; with each set that comes
by a device computes a part of its queries' output, blockwise, and merges it by the parts' L = log sum exp of logits:

    L = log(e^L1 + e^L2)        o = e^(L1 - L) o1 + e^(L2 - L) o2

Backward, keys and values go round again; the gradients of a device's keys follow, collect what every device adds, and
return. No device holds more than T/n of anything, and what moves next is under way while a device computes.

n = 4, no condition. Whose keys each device sees:      hop 0  1  2  3
                                             device 0      0  3  2  1
                                             device 1      1  0  3  2
                                             device 2      2  1  0  3
                                             device 3      3  2  1  0

**A window** with causality reaches back over ceil((window - 1) n / T) shards: the ring stops after as many hops.

**Causality** empties the upper right of that table. If device i held the i-th part of the length, the last one would
compute at every hop and the first one once: n - 1/2 units of time (a unit: T/n queries with S/n keys) where n/2 would
do. So causal attention without a short window cuts the length in 2n and gives device i the halves i and 2n - 1 - i, for
n = 4 these: 0 7, 1 6, 2 5, 3 4. Then every device has two of four pairs of halves to compute at every hop. (Striped
attention, Brandon et al. 2023, balances too, token by token.) The rest of the model keeps its order: queries, keys and
values change places on entering, the output on leaving.

**Bytes** sent by one device, with h hops (n - 1 without a short window), Q bytes of its queries, P of its keys (its
values have as many), W of its keys in float32, I of its segment ids, where there are any:

    forward    h (2 P + I)                   by halves also    (1 - 1/n) (2 Q + 2 P + I)
    backward   h (2 P + I) + 2 (h + 1) W     by halves also    (1 - 1/n) (2 Q + 2 P)

2 of the 2n halves stay where they are; 1 if 3 divides n. Heads that share keys (K < H) make hops cheap: they move P, a
share K/H of Q. In bfloat16 backward moves about three times what forward does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from t5x_like.models.context import Marks, MaskSpec
from t5x_like.models.layers.biases import Bias
from t5x_like.models.layers.blockwise import (
    NO_KEYS,
    Arrays,
    Blocks,
    Sizes,
    backward_part,
    cotangents,
    forward_part,
    heads_first,
    heads_last,
    row_sums,
)

AXIS = "seq"


class Keys(NamedTuple):
    """What goes round: k and v [B, K, S/n, C], and their marks, [B, S/n] each."""

    k: jax.Array
    v: jax.Array
    marks: Marks


class Pair(NamedTuple):
    """A piece of this device's queries and a piece of the keys that have come by."""

    rows: jax.Array | int  # number of the piece
    keys: jax.Array | int
    offset: jax.Array  # of the first query among those keys


@dataclass(frozen=True)
class Ring:
    """What is known when the program is traced."""

    mesh: Mesh  # with an axis `seq` of n devices
    specs: Any  # where each of the operands lies, `Arrays` of PartitionSpec
    sizes: Sizes  # of one piece of queries with one piece of keys
    pieces: int  # of which a device's share consists: 1, or 2 when it holds halves
    hops: int  # that keys make from device to device

    @property
    def size(self) -> int:
        """n."""
        return self.mesh.shape[AXIS]

    @property
    def saved_specs(self) -> tuple[Any, ...]:
        """Where what the backward pass wants lies: operands, output, logs of sums of exponentials."""
        return self.specs, self.specs.q, PartitionSpec(*self.specs.q[:4])

    def first(self, shard: jax.Array, piece: jax.Array | int, length: int) -> jax.Array:
        """Index of the first token of a piece of `length` tokens."""
        if self.pieces == 1:
            return shard * length
        return jnp.where(jnp.asarray(piece) == 0, shard, 2 * self.size - 1 - shard) * length

    def sees(self, offset: jax.Array, length: int, kv_length: int) -> jax.Array:
        """Whether a piece of queries has anything to look for in a piece of keys."""
        seen = jnp.asarray(True)
        if not self.sizes.ahead:
            seen &= offset + length > 0  # the last query is not before the first key
        if self.sizes.reach is not None:
            seen &= offset - self.sizes.reach + 1 < kv_length  # the first query's reach begins before the last key
            if self.sizes.ahead:
                seen &= offset + length - 1 + self.sizes.reach > 0
        return seen

    def on_every_device(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """`function(self, ...)` of every device's part of its arguments."""
        how: Any = {"mesh": self.mesh, "in_specs": in_specs, "out_specs": out_specs, "check_vma": False}
        return jax.shard_map(partial(function, self), **how)

    def on(self, x: Any, by: int) -> Any:
        """Every device's arrays to the device `by` places on."""
        ring = [(i, (i + by) % self.size) for i in range(self.size)]
        return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, AXIS, ring), x)

    def to_halves(self, x: jax.Array, axis: int) -> jax.Array:
        """From a device's part of the length, halves 2i and 2i + 1, to halves i and 2n - 1 - i."""
        if self.pieces == 1:
            return x
        halves = enumerate(jnp.split(x, 2, axis))
        even, odd = (jax.lax.ppermute(half, AXIS, self._ways(parity)) for parity, half in halves)
        here = jax.lax.axis_index(AXIS) % 2 == 0  # whether half i is an even one
        return jnp.concatenate([jnp.where(here, even, odd), jnp.where(here, odd, even)], axis)

    def from_halves(self, x: jax.Array, axis: int) -> jax.Array:
        if self.pieces == 1:
            return x
        low, high = jnp.split(x, 2, axis)
        here = jax.lax.axis_index(AXIS) % 2 == 0
        halves = enumerate((jnp.where(here, low, high), jnp.where(here, high, low)))
        back = [(half, [(to, of) for of, to in self._ways(parity)]) for parity, half in halves]
        return jnp.concatenate([jax.lax.ppermute(half, AXIS, ways) for half, ways in back], axis)

    def _ways(self, parity: int) -> list[tuple[int, int]]:
        halves = ((i, 2 * i + parity) for i in range(self.size))
        return [(i, half if half < self.size else 2 * self.size - 1 - half) for i, half in halves]


def ring_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: MaskSpec,
    bias: Bias | None = None,
    soft_cap: float | None = None,
    wide: DTypeLike = jnp.float32,
    blocks: Blocks,
    mesh: Mesh,
    place: Callable[[str, tuple[int, ...]], PartitionSpec],
) -> jax.Array:
    """`attend` of queries and keys that are cut over `seq`; what is not said here is as for `attend`.

    Args:
      q, k, v: n divides T and S.
      mask: starts at key 0, without `mask.allowed`.
      wide: dtype of logits, weights and sums.
      blocks: how a device cuts its work.
      mesh: with an axis `seq`; every other axis may cut batch and heads.
      place: from an activation's logical names and shape to where it lies on the mesh.

    Returns:
      [B, T, H, C], in q's dtype. A query that may look at no key gets 0.

    Raises:
      UserError: a size that the mesh does not divide.
    """
    assert mask.allowed is None
    length, kv_length, dtype = q.shape[1], k.shape[1], q.dtype
    pieces, hops = schedule(mask, length, kv_length, mesh.shape[AXIS])
    own, own_keys = (n // (pieces * mesh.shape[AXIS]) for n in (length, kv_length))
    blocks = blocks.fitted(own, own_keys)
    if blocks.widen:
        q, k, v = (x.astype(wide) for x in (q, k, v))
    arrays = heads_first(q, k, v, mask, bias)
    sizes = Sizes.of(blocks, mask, own_keys, q.shape[3], wide, soft_cap=soft_cap, partial=True)
    ring = Ring(mesh, _specs(arrays, place), sizes, pieces, hops)
    return heads_last(_attention(ring, arrays)).astype(dtype)


def schedule(mask: MaskSpec, length: int, kv_length: int, size: int) -> tuple[int, int]:
    """Returns in how many pieces a device holds its share and how many hops keys make."""
    hops = size - 1
    if not mask.looks_ahead and mask.reach is not None and length == kv_length:
        hops = min(hops, -(-(mask.reach - 1) * size // length))
    uneven = not mask.looks_ahead and hops == size - 1 > 0
    halves = uneven and length == kv_length and length % (2 * size) == 0
    return 2 if halves else 1, hops


def _specs(arrays: Arrays, place: Callable[[str, tuple[int, ...]], PartitionSpec]) -> Any:
    q, k, bias = arrays.q, arrays.k, arrays.bias
    batch, kv_heads, _, length, _ = q.shape
    rows, heads, along = place("batch kv_heads length", (batch, kv_heads, length))
    place("length", k.shape[2:3])
    of_keys: Any = PartitionSpec(rows, heads, along, None)
    of_marks: Any = PartitionSpec(rows, along)
    q_marks, kv_marks = jax.tree.map(lambda _: of_marks, (arrays.q_marks, arrays.kv_marks))
    of_queries: Any = PartitionSpec(rows, heads, None, along, None)
    of_bias: Any = bias and bias.replace(weights=PartitionSpec(*[None] * (bias.weights.ndim - 1), heads))
    whole: Any = PartitionSpec()
    return Arrays(of_queries, of_keys, of_keys, of_bias, q_marks, kv_marks, whole)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(ring: Ring, arrays: Arrays) -> jax.Array:
    return _forward(ring, arrays)[0]


def _forward(ring: Ring, arrays: Arrays) -> tuple[jax.Array, tuple[Any, ...]]:
    out_specs = ring.specs.q, ring.saved_specs
    return ring.on_every_device(_forward_here, (ring.specs,), out_specs)(arrays)


def _backward(ring: Ring, saved: tuple[Any, ...], d_out: jax.Array) -> tuple[Arrays]:
    q, k, v, bias, *_ = ring.specs
    out_specs = q, k, v, None if bias is None else bias.weights
    gradients = ring.on_every_device(_backward_here, (ring.saved_specs, q), out_specs)(saved, d_out)
    return (cotangents(saved[0], *gradients),)


_attention.defvjp(_forward, _backward)


def _forward_here(ring: Ring, arrays: Arrays) -> tuple[jax.Array, tuple[Any, ...]]:
    """Returns this device's share of the output, and what the backward pass wants, by pieces."""
    arrays = _by_pieces(ring, arrays)

    def hop(carry: tuple[Any, Keys], number: jax.Array) -> tuple[Any, None]:
        sums, keys = carry
        coming = ring.on(keys, 1)
        return (see(sums, keys, number), coming), None

    def see(sums: Any, keys: Keys, number: jax.Array | int) -> Any:
        def visit(sums: Any, pair: Pair) -> Any:
            part = forward_part(ring.sizes, _of_pair(ring, arrays, keys, pair))
            merged = _merge(tuple(_piece(ring, x, 3, pair.rows) for x in sums), part)
            return tuple(_put(ring, x, new, 3, pair.rows) for x, new in zip(sums, merged, strict=True))

        return _each_pair(ring, arrays, number, sums, visit)

    out = jnp.zeros(arrays.q.shape, ring.sizes.wide)
    start = (out, jnp.full(out.shape[:-1], NO_KEYS, out.dtype)), Keys(arrays.k, arrays.v, arrays.kv_marks)
    (sums, keys), _ = jax.lax.scan(hop, start, jnp.arange(ring.hops))
    out, logsumexp = see(sums, keys, ring.hops)
    out = out.astype(arrays.q.dtype)
    return ring.from_halves(out, 3), (arrays, out, logsumexp)


def _merge(one: tuple[jax.Array, ...], other: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
    """Outputs over two sets of keys, and logs of their sums of exponentials, to those over both."""
    (out_1, log_1), (out_2, log_2) = one, other
    both = jnp.logaddexp(log_1, log_2)
    return out_1 * jnp.exp(log_1 - both)[..., None] + out_2 * jnp.exp(log_2 - both)[..., None], both


def _backward_here(
    ring: Ring, saved: tuple[Any, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Returns this device's share of the gradients of q, k, v, and that of the bias's weights."""
    arrays, out, logsumexp = saved
    wide = ring.sizes.wide
    d_out = ring.to_halves(d_out, 3)
    rows = (d_out, logsumexp, row_sums(out, d_out, wide))

    def gradients(sums: Any, keys: Keys, number: jax.Array | int) -> tuple[Any, Any]:
        """Adds to the gradients of what stays here; returns also those of the keys that are here now."""

        def visit(sums: Any, pair: Pair) -> Any:
            (d_q, d_bias), (d_k, d_v) = sums
            mine = (_piece(ring, x, 3, pair.rows) for x in rows)
            more_q, more_k, more_v, more_bias = backward_part(ring.sizes, _of_pair(ring, arrays, keys, pair), *mine)
            if more_bias is not None:
                d_bias = d_bias + more_bias
            d_q = _put(ring, d_q, _piece(ring, d_q, 3, pair.rows) + more_q, 3, pair.rows)
            d_k, d_v = (
                _put(ring, x, _piece(ring, x, 2, pair.keys) + more, 2, pair.keys)
                for x, more in ((d_k, more_k), (d_v, more_v))
            )
            return (d_q, d_bias), (d_k, d_v)

        zeros = jnp.zeros(keys.k.shape, wide), jnp.zeros(keys.v.shape, wide)
        return _each_pair(ring, arrays, number, (sums, zeros), visit)

    def hop(carry: Any, number: jax.Array) -> tuple[Any, None]:
        sums, keys, d_keys = carry
        coming, followed = ring.on((keys, d_keys), 1)
        sums, more = gradients(sums, keys, number)
        return (sums, coming, jax.tree.map(jnp.add, followed, more)), None

    keys = Keys(arrays.k, arrays.v, arrays.kv_marks)
    bias = arrays.bias
    sums: Any = jnp.zeros(arrays.q.shape, wide), None if bias is None else jnp.zeros(bias.weights.shape, wide)
    coming = ring.on(keys, 1) if ring.hops else keys
    sums, d_keys = gradients(sums, keys, 0)
    if ring.hops:
        (sums, keys, d_keys), _ = jax.lax.scan(hop, (sums, coming, d_keys), jnp.arange(1, ring.hops))
        followed = ring.on(d_keys, 1)
        sums, more = gradients(sums, keys, ring.hops)
        d_keys = ring.on(jax.tree.map(jnp.add, followed, more), -ring.hops)
    d_q, d_bias = sums
    d_q, d_k, d_v = (x.astype(like.dtype) for x, like in zip((d_q, *d_keys), arrays, strict=False))
    if bias is not None:  # every row of the batch and every query had its part in it
        rows_over = ring.specs.q[0] or ()
        over = (rows_over,) if isinstance(rows_over, str) else rows_over
        d_bias = jax.lax.psum(d_bias, (*over, AXIS)).astype(bias.weights.dtype)
    return ring.from_halves(d_q, 3), ring.from_halves(d_k, 2), ring.from_halves(d_v, 2), d_bias


def _by_pieces(ring: Ring, arrays: Arrays) -> Arrays:
    q, k, v = (ring.to_halves(x, axis) for x, axis in ((arrays.q, 3), (arrays.k, 2), (arrays.v, 2)))
    q_marks, kv_marks = jax.tree.map(lambda marks: ring.to_halves(marks, 1), (arrays.q_marks, arrays.kv_marks))
    return arrays._replace(q=q, k=k, v=v, q_marks=q_marks, kv_marks=kv_marks)


def _each_pair(ring: Ring, arrays: Arrays, hop: jax.Array | int, sums: Any, visit: Callable[[Any, Pair], Any]) -> Any:
    """`visit(sums, pair)` for one pair after the other, but for those in which no query may look at a key."""
    here = jax.lax.axis_index(AXIS)
    length, kv_length = (n // ring.pieces for n in (arrays.q.shape[3], arrays.k.shape[2]))

    def one(number: jax.Array | int, sums: Any) -> Any:
        rows, keys = number // ring.pieces, number % ring.pieces
        offset = ring.first(here, rows, length) - ring.first((here - hop) % ring.size, keys, kv_length)
        pair = Pair(rows, keys, offset)
        if ring.sizes.ahead and ring.sizes.reach is None:
            return visit(sums, pair)
        return jax.lax.cond(ring.sees(offset, length, kv_length), lambda x: visit(x, pair), lambda x: x, sums)

    return one(0, sums) if ring.pieces == 1 else jax.lax.fori_loop(0, ring.pieces**2, one, sums)


def _of_pair(ring: Ring, arrays: Arrays, keys: Keys, pair: Pair) -> Arrays:
    return Arrays(
        _piece(ring, arrays.q, 3, pair.rows),
        _piece(ring, keys.k, 2, pair.keys),
        _piece(ring, keys.v, 2, pair.keys),
        arrays.bias,
        jax.tree.map(lambda marks: _piece(ring, marks, 1, pair.rows), arrays.q_marks),
        jax.tree.map(lambda marks: _piece(ring, marks, 1, pair.keys), keys.marks),
        pair.offset,
    )


def _piece(ring: Ring, x: jax.Array, axis: int, number: jax.Array | int) -> jax.Array:
    size = x.shape[axis] // ring.pieces
    return x if ring.pieces == 1 else jax.lax.dynamic_slice_in_dim(x, number * size, size, axis)


def _put(ring: Ring, x: jax.Array, new: jax.Array, axis: int, number: jax.Array | int) -> jax.Array:
    return new if ring.pieces == 1 else jax.lax.dynamic_update_slice_in_dim(x, new, number * new.shape[axis], axis)
