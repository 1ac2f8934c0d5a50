# SPDX-License-Identifier: Apache-2.0
"""Attention of a few new tokens to a cache of keys and values."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Context
from t5x_like.models.layers.masks import MASKED
from t5x_like.precision import Policy

Cache = dict[str, jax.Array]


def empty_cache(batch_size: int, kv_heads: int, slots: int, head_dim: int, dtype: DTypeLike) -> Cache:
    """Returns one layer's cache: key [B, K, C, S] and value [B, K, S, C].

    So a step's products with the cache, [X, C] times [C, S] and [X, S] times [S, C], are plain batched matrix products
    as it lies in memory; [B, S, K, C] would be transposed, that is copied, for every token.
    """
    key = jnp.zeros((batch_size, kv_heads, head_dim, slots), dtype)
    return {"key": key, "value": jnp.zeros((batch_size, kv_heads, slots, head_dim), dtype)}


def append(cache: Cache, k: jax.Array, v: jax.Array, ctx: Context) -> Cache:
    """Writes keys and values [B, T, K, C] into the slots from `ctx.mask.offset` on."""

    def write(slots: jax.Array, new: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), ctx.mask.offset, axis)

    key = write(cache["key"], k.transpose(0, 2, 3, 1), axis=3)
    value = write(cache["value"], v.transpose(0, 2, 1, 3), axis=2)
    return {
        "key": ctx.constrain(key, "batch kv_heads head_dim kv_length"),
        "value": ctx.constrain(value, "batch kv_heads kv_length head_dim"),
    }


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
    kv_heads, slots = cache["value"].shape[1:3]
    wide = policy.softmax
    q_BKGTC = q.reshape(batch, length, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_BKXC = q_BKGTC.reshape(batch, kv_heads, -1, width).astype(wide) / math.sqrt(width)
    logits = jnp.einsum("BKXC,BKCS->BKXS", q_BKXC, cache["key"].astype(wide)).reshape(
        batch, kv_heads, heads // kv_heads, length, slots
    )
    if allowed is not None:
        logits = jnp.where(allowed[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).reshape(batch, kv_heads, -1, slots)
    out = jnp.einsum("BKXS,BKSC->BKXC", weights, cache["value"].astype(wide))
    out = out.reshape(batch, kv_heads, heads // kv_heads, length, width).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, width).astype(q.dtype)
