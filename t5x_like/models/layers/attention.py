# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention (Vaswani et al. 2017) with multi, grouped or single key/value heads."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.cached_attention import Cache, append, attend_to_cache
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.positions import rotary
from t5x_like.precision import Policy

MASKED = -1e30  # finite, so that a row that may attend to nothing gives numbers


def dense_mask(mask: MaskSpec, length: int, kv_length: int) -> jax.Array | None:
    """Spells a MaskSpec out as bool [B or 1, T, S], true where the query may look; None when it may look everywhere."""
    q_index = mask.offset + jnp.arange(length)[:, None]
    k_index = jnp.arange(kv_length)[None, :]
    allowed = None
    if mask.causal:
        allowed = (k_index <= q_index)[None]
    if mask.window is not None:
        near = (k_index > q_index - mask.window)[None]
        allowed = near if allowed is None else allowed & near
    if mask.q_segments is not None and mask.kv_segments is not None:
        same = mask.q_segments[:, :, None] == mask.kv_segments[:, None, :]
        allowed = same if allowed is None else allowed & same
    if mask.allowed is not None:
        allowed = mask.allowed if allowed is None else allowed & mask.allowed
    return allowed


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: MaskSpec,
    bias: jax.Array | None = None,
    impl: str = "reference",
    policy: Policy = Policy(),
) -> jax.Array:
    """softmax(q k^T / sqrt(C) + bias, over the keys that `mask` allows) v.

    Args:
      q: [B, T, H, C].
      k, v: [B, S, K, C]; H is a multiple of K, and query heads G = H/K share each key/value head.
      mask: who attends to whom.
      bias: [B or 1, H, T, S], added to the logits.
      impl: "reference", the equation itself.
      policy: the softmax is taken in `policy.softmax`.

    Returns:
      [B, T, H, C], in q's dtype. A query that may attend to no key gets the mean of v.
    """
    if impl != "reference":
        raise ValueError(f"attention impl={impl!r}: expected 'reference'")
    batch, length, heads, width = q.shape
    kv_length, kv_heads = k.shape[1:3]
    # Heads lead, so that both products are plain batched matrix products on every backend. The operands are widened
    # before, not after, the product: XLA:CPU has no batched bfloat16 product with a float32 result.
    q_BKGTC = q.reshape(batch, length, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    k_BKSC, v_BKSC = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    logits = jnp.einsum("BKGTC,BKSC->BKGTS", q_BKGTC.astype(policy.softmax), k_BKSC.astype(policy.softmax))
    logits = logits / math.sqrt(width)
    if bias is not None:
        logits = logits + bias.reshape(bias.shape[0], kv_heads, heads // kv_heads, length, kv_length)
    allowed = dense_mask(mask, length, kv_length)
    if allowed is not None:
        logits = jnp.where(allowed[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGTS,BKSC->BKGTC", weights, v_BKSC)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


class SelfAttention(nn.Module):
    """Queries, keys and values from x; attention; back to the model's width.

    Through a cache, the keys and values of this call are written at slot `ctx.mask.offset` and the queries attend to
    the whole cache; the mask's segment ids keep the slots out that hold nothing yet. A call that is known to be the
    first has nothing to look back on: it attends to its own keys alone.
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float | None  # None: no rotary positions
    use_bias: bool
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, cache: Cache | None) -> tuple[jax.Array, Cache | None]:
        def heads(name: str, number: int, axis: str) -> jax.Array:
            y = Linear(
                "BTD,DHC->BTHC",
                (self.width,),
                ("embed",),
                (number, self.head_dim),
                (axis, "head_dim"),
                self.use_bias,
                name=name,
            )(x, ctx)
            return ctx.constrain(y, f"batch length {axis} head_dim")

        q = heads("query", self.num_heads, "heads")
        k = heads("key", self.num_kv_heads, "kv_heads")
        v = heads("value", self.num_kv_heads, "kv_heads")
        if self.rope_theta is not None:
            assert ctx.positions is not None
            q, k = rotary(q, ctx.positions, self.rope_theta), rotary(k, ctx.positions, self.rope_theta)
        if cache is not None:
            cache = append(cache, k, v, ctx)
        if cache is not None and not (isinstance(ctx.mask.offset, int) and ctx.mask.offset == 0):
            allowed = dense_mask(ctx.mask, x.shape[1], cache["value"].shape[2])
            y = attend_to_cache(q, cache, allowed, ctx.policy)
        else:
            y = attend(q, k, v, mask=ctx.mask, policy=ctx.policy)
        out = Linear(
            "BTHC,HCD->BTD",
            (self.num_heads, self.head_dim),
            ("heads", "head_dim"),
            (self.width,),
            ("embed",),
            self.use_bias,
            self.out_scale,
            name="out",
        )
        return out(y, ctx), cache
