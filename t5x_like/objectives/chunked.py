# SPDX-License-Identifier: Apache-2.0
"""A loss over a vocabulary without the logits of a whole batch: a few positions of every sequence at a time.

The loss is the last thing that a step computes, so its gradient is known up to one scalar as soon as a chunk of logits
is: it is taken there and then, and the logits are dropped. Recomputing them in the backward pass would cost a product
with the vocabulary more.

On a mesh every device adds up the gradient of its own positions over all chunks, and devices are added up once, at the
end: left to itself the compiler would do so for every chunk, and move a gradient as large as the vocabulary each time.
Each device therefore holds one such gradient whole (its share over `tensor`), as it holds the table itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.models.context import Layout

Sums = dict[str, jax.Array]
# function(params, hidden, rest, layout) -> (loss, sums)
ChunkFunction = Callable[[Any, jax.Array, Any, Layout | None], tuple[jax.Array, Sums]]

MOST_LOGITS = 2**25  # at once, on a device whose memory is not known: 128 MiB of float32
_SHARE = 1 / 16  # of a device's memory that logits and their gradients may take, 8 bytes for each


def most_logits(memory: float | None) -> int:
    """How many logits may be there at once on a device of so many bytes of memory; None: not known."""
    return MOST_LOGITS if memory is None else max(MOST_LOGITS, int(memory * _SHARE / 8))


def chunk_length(
    length: int, vocab_size: int, sequences: int, wanted: int | None, most: int = MOST_LOGITS, parts: int = 1
) -> int:
    """Returns how many positions of every sequence have logits at once; chunks of about equal lengths.

    At most `wanted` where that is given; else at most `most` logits on a device, which holds `sequences` of the
    (micro)batch, and half the length unless its memory has room for far more. Where devices hold `parts` of the length,
    as many positions of each part: a multiple of `parts`, and at least one of each.
    """
    length = -(-length // parts)
    positions = max(1, (wanted or length * parts) // parts)
    if not wanted:
        positions = max(1, most // (sequences * vocab_size))
        positions = min(positions, max(1, length // 2) if most <= MOST_LOGITS else length)
    chunks = -(-length // positions)
    return -(-length // chunks) * parts


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 6))
def sum_over_chunks(
    function: ChunkFunction,
    chunk: int,
    params: Any,
    hidden: jax.Array,
    rest: Any,
    scale: jax.Array | None = None,
    layout: Layout | None = None,
) -> tuple[jax.Array, Sums]:
    """Adds `function(params, hidden[:, chunk], rest[:, chunk], layout) -> (loss, sums)` up over chunks of dimension 1.

    With 3 parts of the length, 12 positions and chunks of 6, the first chunk holds 0 1, 4 5 and 8 9: some of what each
    of three devices holds of the length, so nothing has to move.

    Args:
      function: its loss is differentiated with respect to params and hidden; its sums, [rows] each, are not. Zeros for
        hidden and rest, which fill the last chunk up, must add nothing to either: a weight in `rest` sees to that. The
        layout it is told is that of what it is given: all rows of a chunk, or those of one device.
      chunk: length of a chunk, a multiple of `parts_of(layout, T)`.
      params: what the loss needs of the parameters.
      hidden: [B, T, D].
      rest: a tree of [B, T, ...], such as targets and weights; no gradient.
      scale: scalar, about what the caller will multiply the loss by before differentiating it; None for 1. It changes
        no result, only in which range of numbers the gradients of chunks are computed and kept: in float16 they would
        underflow before the caller's own factor reached them.
      layout: where batch and length lie; None for one device.
    """

    del scale

    def of_chunk(xs: Any) -> Any:
        hidden, rest = xs
        return function(params, hidden, rest, layout), None

    def add(total: Any, xs: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_chunk(xs)[0]), None

    chunks = _split((hidden, rest), chunk, parts_of(layout, hidden.shape[1]))
    return jax.lax.scan(add, _zeros(of_chunk, chunks), chunks, unroll=2)[0]


def map_over_chunks(function: Callable[[Any], Any], chunk: int, hidden: Any, layout: Layout | None = None) -> Any:
    """`function(hidden)`, a tree of [B, T, ...], computed for a chunk of the T positions after the other; no gradient.

    Arguments are as those of `sum_over_chunks`; `hidden` may be a tree of such.
    """
    length = jax.tree.leaves(hidden)[0].shape[1]
    parts = parts_of(layout, length)
    found = jax.lax.map(function, _split(hidden, chunk, parts))
    return jax.tree.map(lambda leaf: _join(leaf, length, parts), found)


def parts_of(layout: Layout | None, length: int) -> int:
    """In how many parts the mesh cuts a length; 1 where it does not divide it."""
    return 1 if layout is None or length % layout.length_parts else layout.length_parts


def _forward(
    function: ChunkFunction,
    chunk: int,
    params: Any,
    hidden: jax.Array,
    rest: Any,
    scale: jax.Array | None,
    layout: Layout | None,
) -> Any:
    batch, length = hidden.shape[:2]
    parts = parts_of(layout, length)
    rows = 1 if layout is None or parts != layout.length_parts else layout.batch_parts
    within = layout if layout is None or rows * parts == 1 else layout.in_part

    def one(xs: Any) -> Any:
        """Sums and gradients of a chunk's positions, or of those that one device has of them."""
        hidden, rest = xs
        loss, pullback, sums = jax.vjp(lambda p, h: function(p, h, rest, within), params, hidden, has_aux=True)
        d_params, d_hidden = pullback(jnp.ones_like(loss) if scale is None else scale.astype(loss.dtype))
        return (loss, sums, d_params), d_hidden

    def of_chunk(xs: Any) -> Any:
        if layout is None or rows * parts == 1:
            return one(xs)
        apart = jax.tree.map(lambda leaf: layout.pin_parts(_apart(leaf, rows, parts)), xs)
        axes = (*layout.mesh_axes("batch"), *layout.mesh_axes("length"))
        found, d_hidden = jax.vmap(one, spmd_axis_name=axes)(apart)
        return jax.tree.map(layout.pin_parts, found), _together(d_hidden, rows, parts)

    def add(total: Any, xs: Any) -> tuple[Any, jax.Array]:
        found, d_hidden = of_chunk(xs)
        return jax.tree.map(jnp.add, total, found), d_hidden

    chunks = _split((hidden, rest), chunk, parts)
    (loss, sums, d_params), d_hidden = jax.lax.scan(add, _zeros(of_chunk, chunks), chunks, unroll=2)
    if rows * parts > 1:
        loss, d_params = jax.tree.map(lambda leaf: leaf.sum(0), (loss, d_params))
        sums = jax.tree.map(lambda leaf: leaf.reshape(rows, parts, -1).sum(1).reshape(batch), sums)
    return (loss, sums), (d_params, _join(d_hidden, length, parts), scale)


def _backward(function: ChunkFunction, chunk: int, layout: Layout | None, saved: Any, cotangent: Any) -> Any:
    del function, chunk, layout
    d_params, d_hidden, scale = saved
    factor = cotangent[0] if scale is None else cotangent[0] / scale
    return *jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), (d_params, d_hidden)), None, None


sum_over_chunks.defvjp(_forward, _backward)


def _zeros(function: Callable[[Any], Any], chunks: Any) -> Any:
    """Of what `function` of a chunk returns first."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], chunks))[0]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _apart(x: jax.Array, rows: int, parts: int) -> jax.Array:
    """A chunk [B, chunk, ...] -> [rows * parts, B / rows, chunk / parts, ...], what one device has side by side."""
    batch, chunk = x.shape[:2]
    x = x.reshape(rows, batch // rows, parts, chunk // parts, *x.shape[2:]).swapaxes(1, 2)
    return x.reshape(rows * parts, *x.shape[2:])


def _together(x: jax.Array, rows: int, parts: int) -> jax.Array:
    """Undoes `_apart`."""
    x = x.reshape(rows, parts, *x.shape[1:]).swapaxes(1, 2)
    return x.reshape(rows * x.shape[1], parts * x.shape[3], *x.shape[4:])


def _split(tree: Any, chunk: int, parts: int) -> Any:
    """[B, T, ...] -> [chunks, B, chunk, ...], every chunk with a share of each part of T; zeros fill the parts up."""
    share = chunk // parts

    def split(leaf: jax.Array) -> jax.Array:
        leaf = leaf.reshape(leaf.shape[0], parts, -1, *leaf.shape[2:])
        missing = -leaf.shape[2] % share
        if missing:
            leaf = jnp.pad(leaf, [(0, 0), (0, 0), (0, missing), *[(0, 0)] * (leaf.ndim - 3)])
        leaf = leaf.reshape(*leaf.shape[:2], -1, share, *leaf.shape[3:])
        return jnp.moveaxis(leaf, 2, 0).reshape(leaf.shape[2], leaf.shape[0], chunk, *leaf.shape[4:])

    return jax.tree.map(split, tree)


def _join(chunks: jax.Array, length: int, parts: int) -> jax.Array:
    """[chunks, B, chunk, ...] -> [B, length, ...], without what filled the parts up."""
    number, batch, chunk, *rest = chunks.shape
    joined = jnp.moveaxis(chunks.reshape(number, batch, parts, chunk // parts, *rest), 0, 2)
    return joined.reshape(batch, parts, -1, *rest)[:, :, : length // parts].reshape(batch, length, *rest)
