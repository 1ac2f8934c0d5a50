# SPDX-License-Identifier: Apache-2.0
"""A loss over a vocabulary without the logits of a whole batch: a few positions of every sequence at a time.

The loss is the last thing that a step computes, so its gradient is known up to one scalar as soon as a chunk of logits
is: it is taken there and then, and the logits are dropped. Recomputing them in the backward pass would cost a product
with the vocabulary more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Sums = dict[str, jax.Array]
ChunkFunction = Callable[[Any, jax.Array, Any], tuple[jax.Array, Sums]]


MOST_LOGITS = 2**25  # at once: 128 MiB of float32


def chunk_length(
    length: int,
    vocab_size: int,
    sequences: int,
    wanted: int | None,
    most_logits: int = MOST_LOGITS,
    parts: int = 1,
) -> int:
    """Returns how many positions of every sequence have logits at once; chunks of about equal lengths.

    At most `wanted` where that is given; else at most half the length, and at most `most_logits` logits on a device,
    which holds `sequences` of the (micro)batch. Where devices hold `parts` of the length, as many positions of each
    part: a multiple of `parts`, and at least one of each.
    """
    length = -(-length // parts)
    most = max(1, (wanted or length * parts) // parts)
    if not wanted:
        most = min(max(1, length // 2), max(1, most_logits // (sequences * vocab_size)))
    chunks = -(-length // most)
    return -(-length // chunks) * parts


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 6))
def sum_over_chunks(
    function: ChunkFunction,
    chunk: int,
    params: Any,
    hidden: jax.Array,
    rest: Any,
    scale: jax.Array | None = None,
    parts: int = 1,
) -> tuple[jax.Array, Sums]:
    """Adds `function(params, hidden[:, chunk], rest[:, chunk]) -> (loss, sums)` up over chunks of dimension 1.

    With 3 parts, 12 positions and chunks of 6, the first chunk holds 0 1, 4 5 and 8 9: some of what each of three
    devices holds of the length, so nothing has to move.

    Args:
      function: its loss is differentiated with respect to params and hidden; its sums are not. Zeros for hidden and
        rest, which fill the last chunk up, must add nothing to either: a weight in `rest` sees to that.
      chunk: length of a chunk, a multiple of `parts`.
      params: what the loss needs of the parameters.
      hidden: [B, T, D].
      rest: a tree of [B, T, ...], such as targets and weights; no gradient.
      scale: scalar, about what the caller will multiply the loss by before differentiating it; None for 1. It changes
        no result, only in which range of numbers the gradients of chunks are computed and kept: in float16 they would
        underflow before the caller's own factor reached them.
      parts: in how many parts the mesh cuts the length; 1 where it does not divide it.
    """

    del scale

    def add(total: Any, xs: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(params, *xs)), None

    chunks = _split((hidden, rest), chunk, parts)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _shapes(function, params, chunks))
    return jax.lax.scan(add, zero, chunks, unroll=2)[0]


def _forward(
    function: ChunkFunction, chunk: int, params: Any, hidden: jax.Array, rest: Any, scale: jax.Array | None, parts: int
) -> Any:
    def add(carry: Any, xs: Any) -> tuple[Any, jax.Array]:
        total, d_params = carry
        hidden, rest = xs
        loss, pullback, sums = jax.vjp(lambda p, h: function(p, h, rest), params, hidden, has_aux=True)
        more, d_hidden = pullback(jnp.ones_like(loss) if scale is None else scale.astype(loss.dtype))
        return (jax.tree.map(jnp.add, total, (loss, sums)), jax.tree.map(jnp.add, d_params, more)), d_hidden

    chunks = _split((hidden, rest), chunk, parts)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _shapes(function, params, chunks))
    (total, d_params), d_hidden = jax.lax.scan(add, (zero, jax.tree.map(jnp.zeros_like, params)), chunks, unroll=2)
    return total, (d_params, _join(d_hidden, hidden.shape[1], parts), scale)


def _backward(function: ChunkFunction, chunk: int, parts: int, saved: Any, cotangent: Any) -> Any:
    del function, chunk, parts
    d_params, d_hidden, scale = saved
    factor = cotangent[0] if scale is None else cotangent[0] / scale
    return *jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), (d_params, d_hidden)), None, None


sum_over_chunks.defvjp(_forward, _backward)


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
    """[chunks, B, chunk, D] -> [B, length, D], without what filled the parts up."""
    number, batch, chunk, width = chunks.shape
    joined = jnp.moveaxis(chunks.reshape(number, batch, parts, chunk // parts, width), 0, 2)
    return joined.reshape(batch, parts, -1, width)[:, :, : length // parts].reshape(batch, length, width)


def _shapes(function: ChunkFunction, params: Any, chunks: Any) -> Any:
    return jax.eval_shape(function, params, *jax.tree.map(lambda leaf: leaf[0], chunks))
