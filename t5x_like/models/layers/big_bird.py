# SPDX-License-Identifier: Apache-2.0
"""BigBird's attention (Zaheer et al. 2020, "Big Bird: Transformers for longer sequences", section 2 and appendix D.1),
by blocks of b tokens. With T/b blocks, the queries of block i look at the keys of blocks

    0, T/b - 1          global
    i - 1, i, i + 1     window
    r others            random, drawn once for each head of each layer

and those of the global blocks at all keys. A last block that is not full is filled up with padding.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.config.attention import BigBirdAttentionConfig
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.attention import Attention, attend
from t5x_like.models.layers.parts import NOBODY, in_blocks, merged, part, with_segments

NONE = -1  # in a table, no block


def table(kind: BigBirdAttentionConfig, blocks: int, heads: int, drawn: bool = True) -> np.ndarray:
    """Which blocks of keys each block of queries but the first and the last looks at, int [H, T/b - 2, 5 + r]. Not
    `drawn`: the first block stands in the place of the random ones, once more for each."""
    rng = np.random.default_rng((kind.random_seed, kind.layer_number))
    rows = np.full((heads, blocks - 2, 5 + kind.random_blocks), NONE, np.int32)
    for i in range(1, blocks - 1):
        near = sorted({0, blocks - 1, i - 1, i, i + 1})
        others = np.setdiff1d(np.arange(blocks), near)
        for head in range(heads):
            chosen = rng.choice(others, kind.random_blocks, replace=False) if drawn else [0] * kind.random_blocks
            rows[head, i - 1, : len(near)] = near
            rows[head, i - 1, 5:] = chosen
    return rows


class BigBirdAttention(Attention):
    """Self-attention of that kind."""

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        kind, (batch, length, heads, width), size = self.kind, q.shape, self.kind.block_size
        if kind.sees_all(length):
            return self._attend(q, k, v, mask, None, ctx)
        blocks = -(-length // size)
        marks = with_segments(mask.q, q) if length % size else mask.q

        q, k, v = (in_blocks(y, size) for y in (self._scaled(q), k, v))
        segments = None if marks.segments is None else in_blocks(marks.segments, size, NOBODY)
        ends = jnp.asarray([0, blocks - 1])
        drawn = kind.random_in_evaluation or ctx.train
        chosen = jnp.asarray(table(kind, blocks, k.shape[3], drawn))
        inner = self._of_blocks(q[:, 1:-1], k, v, segments, chosen, ctx)
        q_ends, keys, values = (y.reshape(batch, -1, *y.shape[3:]) for y in (q[:, ends], k, v))
        both = None if segments is None else segments[:, ends].reshape(batch, -1)
        everything = None if segments is None else segments.reshape(batch, -1)
        seen = MaskSpec(causal=False, q=Marks(both), kv=Marks(everything))
        outer = merged([part(q_ends, keys, values, seen, ctx, soft_cap=self.soft_cap)], v.dtype)
        outer = outer.reshape(batch, 2, *inner.shape[2:])
        y = jnp.concatenate([outer[:, :1], inner, outer[:, 1:]], axis=1)
        return y.reshape(batch, -1, heads, width)[:, :length]

    def _of_blocks(
        self, q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array | None, chosen: jax.Array, ctx: Context
    ) -> jax.Array:
        """Each block of queries [B, N, b, H, C] with the blocks of keys [B, T/b, b, K, C] of its row of a table
        [K, N, n]. Gathered keys are not kept for the backward pass; on one CPU those of one head are there at once."""
        batch, number, size, heads, width = q.shape
        kv_heads = k.shape[3]
        of_head = jnp.moveaxis(q.reshape(batch, number, size, kv_heads, -1, width), 3, 0)

        def one(xs: tuple[jax.Array, ...]) -> jax.Array:
            q, k, v, rows = xs  # [B, N, b, G, C], [B, T/b, b, C] twice, [N, n]
            there = jnp.repeat(rows != NONE, size, axis=1)[None, :, None, :]  # [1, N, 1, n b]
            keys, values = (y[:, rows].reshape(batch, number, -1, width) for y in (k, v))
            if segments is not None:
                of_keys = segments[:, rows].reshape(batch, number, 1, -1)
                there = there & (of_keys == segments[:, 1:-1, :, None])
            keys, values = (y.reshape(batch * number, -1, 1, width) for y in (keys, values))
            allowed = jnp.broadcast_to(there, (batch, number, size, keys.shape[1])).reshape(-1, size, keys.shape[1])
            mask = MaskSpec(causal=False, allowed=allowed)
            how: dict[str, Any] = {"policy": ctx.policy, "layout": ctx.layout, "one_cpu": ctx.one_cpu}
            of_group = q.reshape(-1, size, q.shape[3], width), keys, values
            return attend(*of_group, mask=mask, soft_cap=self.soft_cap, impl="reference", **how).reshape(q.shape)

        by_head = of_head, *(jnp.moveaxis(y, 3, 0) for y in (k, v)), chosen
        each = jax.checkpoint(one)
        y = jax.lax.map(each, by_head) if ctx.one_cpu else jax.vmap(each)(by_head)
        return jnp.moveaxis(y, 0, 3).reshape(batch, number, size, heads, width)
