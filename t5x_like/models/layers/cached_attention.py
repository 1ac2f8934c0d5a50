# SPDX-License-Identifier: Apache-2.0
"""Attention of a few new tokens to a cache of keys and values."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Context
from t5x_like.precision import Policy

Cache = dict[str, jax.Array]
MASKED = -1e30


def empty_cache(batch_size: int, kv_heads: int, slots: int, head_dim: int, dtype: DTypeLike) -> Cache:
    """Returns one layer's cache: key and value, both [B, K, S, C].

    Heads come before slots, so that a step's products with the cache are plain batched matrix products as it lies in
    memory; [B, S, K, C] would be transposed, that is copied, for every token.
    """
    shape = (batch_size, kv_heads, slots, head_dim)
    return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}


def append(cache: Cache, k: jax.Array, v: jax.Array, ctx: Context) -> Cache:
    """Writes keys and values [B, T, K, C] into the slots from `ctx.mask.offset` on."""

    def write(slots: jax.Array, new: jax.Array) -> jax.Array:
        new = new.transpose(0, 2, 1, 3).astype(slots.dtype)
        slots = jax.lax.dynamic_update_slice_in_dim(slots, new, ctx.mask.offset, axis=2)
        return ctx.constrain(slots, "batch kv_heads kv_length head_dim")

    return {"key": write(cache["key"], k), "value": write(cache["value"], v)}


def attend_to_cache(q: jax.Array, cache: Cache, allowed: jax.Array | None, policy: Policy) -> jax.Array:
    """softmax(q k^T / sqrt(C), over the slots that are allowed) v.

    Args:
      q: [B, T, H, C], T few.
      cache: as `empty_cache` describes; H is a multiple of K.
      allowed: bool [B or 1, T, S]; None allows all.
      policy: the softmax is taken in `policy.softmax`.

    Returns:
      [B, T, H, C], in q's dtype.
    """
    batch, length, heads, width = q.shape
    kv_heads, slots = cache["key"].shape[1:3]
    wide = policy.softmax
    q_BKGTC = q.reshape(batch, length, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_BKXC = q_BKGTC.reshape(batch, kv_heads, -1, width).astype(wide) / math.sqrt(width)
    logits = jnp.einsum("BKXC,BKSC->BKXS", q_BKXC, cache["key"].astype(wide)).reshape(
        batch, kv_heads, heads // kv_heads, length, slots
    )
    if allowed is not None:
        logits = jnp.where(allowed[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).reshape(batch, kv_heads, -1, slots)
    out = jnp.einsum("BKXS,BKSC->BKXC", weights, cache["value"].astype(wide))
    out = out.reshape(batch, kv_heads, heads // kv_heads, length, width).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, width).astype(q.dtype)
