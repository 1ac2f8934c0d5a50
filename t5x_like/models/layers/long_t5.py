# SPDX-License-Identifier: Apache-2.0
"""LongT5's attention (Guo et al. 2022, "LongT5: efficient text-to-text Transformer for long sequences", section 3.1).

    local               the keys within a radius r of the query
    transient global    those, and a summary of every block of 16 tokens: the norm of the sum of what enters attention

Summaries go through the same maps to keys and values, and have relative position biases of their own, by how many
blocks they are from the query's. Tokens behind a document's last whole block count to that block. As in the paper's
code, which the paper only outlines, a document shorter than a block has no summary.
"""

import jax
import jax.numpy as jnp

from t5x_like.config import TransformerConfig
from t5x_like.config.attention import AttentionConfig, TransientGlobalAttentionConfig
from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.attention import Attended, Attention
from t5x_like.models.layers.biases import Bias
from t5x_like.models.layers.cached_attention import Cache
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec
from t5x_like.models.layers.parts import NOBODY, merged, part

BIAS = "global_relative_bias"


class LocalAttention(Attention):
    """Local attention."""

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        return self._attend(q, k, v, self._within(mask), ctx.bias, ctx)

    def _within(self, mask: MaskSpec) -> MaskSpec:
        return mask.replace(window=self.kind.radius + 1)


class TransientGlobalAttention(LocalAttention):
    """Local attention with summaries. Its further parameter is the scale of global_norm."""

    epsilon: float = 1e-6  # of that norm

    def _to_self(self, x: jax.Array, mask: MaskSpec, ctx: Context, cache: Cache | None) -> Attended:
        assert cache is None
        blocks, of_queries, of_blocks = blocks_of(x, ctx, mask.q.segments, self.kind.block_size)
        blocks = Norm("rmsnorm", self.epsilon, False, name="global_norm")(blocks).astype(x.dtype)
        q, k, v = self._made(x, mask, ctx, jnp.concatenate([x, blocks], axis=1))
        q, length = self._scaled(q), x.shape[1]
        near = part(q, k[:, :length], v[:, :length], self._within(mask), ctx, ctx.bias, self.soft_cap)
        places = jnp.broadcast_to(jnp.arange(blocks.shape[1]), of_blocks.shape)
        segments = jnp.ones(x.shape[:2], jnp.int32) if mask.q.segments is None else mask.q.segments
        seen = MaskSpec(causal=False, q=Marks(segments, index=of_queries), kv=Marks(of_blocks, index=places))
        if not blocks.shape[1]:
            return merged([near], v.dtype), None
        far = part(q, k[:, length:], v[:, length:], seen, ctx, self._bias(ctx), self.soft_cap)
        return merged([near, far], v.dtype), None

    def _bias(self, ctx: Context) -> Bias | None:
        return ctx.bias.replace(weights=ctx.shared[BIAS]["table"]) if ctx.shared and BIAS in ctx.shared else None


def blocks_of(
    x: jax.Array, ctx: Context, segments: jax.Array | None, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over the whole blocks of each document [B, T/size, D], the block of every token [B, T] and the segment that
    each block is of [B, T/size]; -1 where there is none."""
    assert ctx.positions is not None
    batch, length = x.shape[:2]
    number, of_row = length // size, jnp.arange(batch)[:, None]
    segments = jnp.ones((batch, length), jnp.int32) if segments is None else segments
    ends = (ctx.positions % size == size - 1) & (segments > 0)
    through = jnp.cumsum(ends, axis=1)
    before = through - ends
    last = jnp.concatenate([segments[:, :-1] != segments[:, 1:], jnp.ones((batch, 1), bool)], axis=1)
    in_all = jax.lax.cummin(jnp.where(last, through, length), axis=1, reverse=True)  # through the document's end
    block = jnp.minimum(before, in_all - 1)
    of_blocks = jnp.full((batch, number), NOBODY).at[of_row, jnp.where(ends, before, number)].set(segments, mode="drop")
    if not number:
        return x[:, :0], jnp.full_like(block, NOBODY), of_blocks
    own = (block >= 0) & (of_blocks[of_row, jnp.maximum(block, 0)] == segments)
    block = jnp.where(own, block, NOBODY)
    sums = jnp.zeros((batch, number, x.shape[2]), ctx.policy.softmax)
    sums = sums.at[of_row, jnp.where(own, block, number)].add(x.astype(sums.dtype), mode="drop")
    return sums, block, of_blocks


def shared(kind: AttentionConfig, config: TransformerConfig) -> Params:
    """The biases of summaries, which all layers share as they share those of tokens."""
    if not isinstance(kind, TransientGlobalAttentionConfig) or config.positions != "relative":
        return {}
    shape, axes = (config.relative_buckets, config.num_heads), ("buckets", "heads")
    return {
        BIAS: {"table": ParamSpec(shape, axes, ("buckets",), ("heads",), Normal(config.d_model**-0.5), lookup=True)}
    }
