# SPDX-License-Identifier: Apache-2.0
"""Attention over keys that come in parts: a window, global tokens, a stride. Each part is computed for itself, by
blocks, and the softmax over all of them follows from the parts' outputs o and log sum exp l:

    o = sum_i exp(l_i - l) o_i      l = log sum_i exp(l_i)

The parts of a query must not overlap, for a key in two of them would count twice. No [T, S] array ever exists.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.biases import Bias
from t5x_like.models.layers.blockwise import blocks_for, blockwise_part

NOBODY = -1  # a segment that no token is of, neither real ones (1 and up) nor padding (0)


class Part(NamedTuple):
    """Attention over some of the keys: output [B, T, H, C] and log sum exp of the logits [B, T, H], both wide."""

    out: jax.Array
    logsumexp: jax.Array


def part(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskSpec,
    ctx: Context,
    bias: Bias | None = None,
    soft_cap: float | None = None,
) -> Part:
    """`attend` over the keys given; q [B, T, H, C], k and v [B, S, K, C]. The logits are scaled by 1 / sqrt(C)."""
    blocks = blocks_for(mask, ctx.one_cpu, widen=ctx.platform == "cpu")
    how: dict[str, Any] = {"mask": mask, "bias": bias, "soft_cap": soft_cap, "wide": ctx.policy.softmax}
    return Part(*blockwise_part(q, k, v, **how, blocks=blocks))


def merged(parts: Sequence[Part], dtype: DTypeLike) -> jax.Array:
    """The output over the keys of all parts; 0 for a query without any."""
    if len(parts) == 1:
        return parts[0].out.astype(dtype)
    logs = jnp.stack([each.logsumexp for each in parts])
    shares = jnp.exp(logs - jax.nn.logsumexp(logs, axis=0))
    return sum(share[..., None] * each.out for share, each in zip(shares, parts, strict=True)).astype(dtype)


def with_segments(marks: Marks, like: jax.Array) -> Marks:
    """The same, its segments spelt out; `like` is [B, T, ...]."""
    return marks if marks.segments is not None else marks.replace(segments=jnp.ones(like.shape[:2], jnp.int32))


def in_blocks(x: jax.Array, size: int, fill: int = 0) -> jax.Array:
    """[B, T, ...] to [B, T / size, size, ...]; what is missing from the last block is filled up."""
    missing = -x.shape[1] % size
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
    return x.reshape(x.shape[0], -1, size, *x.shape[2:])


def apart(
    size: int, function: Callable[..., Any], q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, *, stride: bool
) -> Any:
    """`function(q, k, v, mask)` of every `size` tokens side by side, its results in the tokens' order. By `stride`, of
    every sequence of tokens that lie so far apart, where keys are as many times nearer to a query."""
    batch, length = q.shape[:2]
    if length % size:
        mask = mask.replace(q=with_segments(mask.q, q), kv=with_segments(mask.kv, k))

    def turned(x: jax.Array) -> jax.Array:
        return jnp.swapaxes(x, 1, 2) if stride else x

    def out(x: jax.Array, fill: int = 0) -> jax.Array:
        """[B, T, ...] to [B N, T / N, ...], N being the number of sequences of a row."""
        x = turned(in_blocks(x, size, fill))
        return x.reshape(-1, *x.shape[2:])

    def back(x: jax.Array) -> jax.Array:
        x = turned(x.reshape(batch, -1, *x.shape[1:]))
        return x.reshape(batch, -1, *x.shape[3:])[:, :length]

    q_marks, kv_marks = jax.tree.map(lambda x: out(x, NOBODY), (mask.q, mask.kv))
    return jax.tree.map(back, function(out(q), out(k), out(v), mask.replace(q=q_marks, kv=kv_marks)))
