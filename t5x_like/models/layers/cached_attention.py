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
    """Returns one layer's cache: key [B, K, C, S] and value [B, K, S, C], for a single row [K, C, S] and [K, S, C].

    So a step's products with the cache, [X, C] times [C, S] and [X, S] times [S, C], are plain batched matrix products
    as it lies in memory; [B, S, K, C] would be transposed, that is copied, for every token. XLA:CPU copies, too, what
    a loop carries with a dimension of 1 that its product does not have.
    """
    rows = () if batch_size == 1 else (batch_size,)
    key = jnp.zeros((*rows, kv_heads, head_dim, slots), dtype)
    return {"key": key, "value": jnp.zeros((*rows, kv_heads, slots, head_dim), dtype)}


def append(cache: Cache, k: jax.Array, v: jax.Array, ctx: Context) -> Cache:
    """Writes keys and values [B, T, K, C] into the slots from `ctx.mask.offset` on."""
    rows = "" if cache["key"].ndim == 3 else "batch "

    def write(name: str, new: jax.Array, axis: int, axes: str) -> jax.Array:
        slots, new = cache[name], new if rows else new[0]
        slots = jax.lax.dynamic_update_slice_in_dim(slots, new.astype(slots.dtype), ctx.mask.offset, axis)
        return ctx.constrain(slots, rows + axes)

    return {
        "key": write("key", k.transpose(0, 2, 3, 1), -1, "kv_heads head_dim kv_length"),
        "value": write("value", v.transpose(0, 2, 1, 3), -2, "kv_heads kv_length head_dim"),
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
    *lead, slots, _ = cache["value"].shape
    kv_heads = lead[-1]
    wide = policy.softmax
    q_BKGTC = q.reshape(batch, length, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_X = q_BKGTC.reshape(*lead, -1, width).astype(wide) / math.sqrt(width)  # rows that share keys are one dimension
    logits = jnp.matmul(q_X, cache["key"].astype(wide)).reshape(*q_BKGTC.shape[:-1], slots)
    if allowed is not None:
        logits = jnp.where(allowed[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).reshape(*q_X.shape[:-1], slots)
    out = jnp.matmul(weights, cache["value"].astype(wide))
    out = out.reshape(q_BKGTC.shape).transpose(0, 3, 1, 2, 4)
    return out.reshape(q.shape).astype(q.dtype)
