# SPDX-License-Identifier: Apache-2.0
"""Attention of a few new tokens to a cache of keys and values."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.models.context import Context
from t5x_like.models.layers.masks import MASKED, for_groups
from t5x_like.precision import Policy

Cache = dict[str, jax.Array]


class CacheSizes(NamedTuple):
    """Of one layer's cache."""

    batch_size: int
    kv_heads: int
    slots: int
    head_dim: int
    dtype: DTypeLike


def empty_cache(batch_size: int, kv_heads: int, slots: int, head_dim: int, dtype: DTypeLike) -> Cache:
    """One layer's cache: key [B, K, C, S] and value [B, K, S, C]; B and K are left out where they are 1.

    So a step's products with it are plain batched matrix products as it lies in memory; [B, S, K, C] would be copied
    for every token. XLA:CPU also copies what a loop carries with a dimension of 1 that its product does not have (still
    so where a mesh leaves a device one head).
    """
    lead = [size for size in (batch_size, kv_heads) if size > 1]
    key = jnp.zeros((*lead, head_dim, slots), dtype)
    return {"key": key, "value": jnp.zeros((*lead, slots, head_dim), dtype)}


def append(cache: Cache, k: jax.Array, v: jax.Array, ctx: Context) -> Cache:
    """Writes keys and values [B, T, K, C] into the slots from `ctx.mask.offset` on."""
    lead = {name: size for name, size in (("batch", k.shape[0]), ("kv_heads", k.shape[2])) if size > 1}

    def write(name: str, new: jax.Array, axis: int, axes: str) -> jax.Array:
        slots = cache[name]
        new = new.reshape(*lead.values(), *new.shape[2:]).astype(slots.dtype)
        slots = jax.lax.dynamic_update_slice_in_dim(slots, new, ctx.mask.offset, axis)
        return ctx.constrain(slots, " ".join([*lead, axes]))

    return {
        "key": write("key", k.transpose(0, 2, 3, 1), -1, "head_dim kv_length"),
        "value": write("value", v.transpose(0, 2, 1, 3), -2, "kv_length head_dim"),
    }


def attend_to_cache(
    q: jax.Array, cache: Cache, allowed: jax.Array | None, logits_of: Callable[[jax.Array], jax.Array], policy: Policy
) -> jax.Array:
    """softmax(logits, over the slots that are allowed) v.

    Args:
      q: [B, T, H, C], T few; H is a multiple of the cache's K. The result has the same shape and dtype.
      cache: as `empty_cache` describes.
      allowed: bool [B or 1, T, S]; None allows all.
      logits_of: from q k^T / sqrt(C), [B, K, X, S], X running over T within G, to logits, in `policy.softmax`.
    """
    batch, length, heads, width = q.shape
    *lead, slots, _ = cache["value"].shape
    kv_heads = math.prod(lead) // batch
    wide = policy.softmax
    q_BKGTC = q.reshape(batch, length, kv_heads, heads // kv_heads, width).transpose(0, 2, 3, 1, 4)
    q_XC = q_BKGTC.reshape(*lead, -1, width).astype(wide) / math.sqrt(width)  # the rows X share keys; B, K as cached
    products = jnp.matmul(q_XC, cache["key"].astype(wide))
    logits = logits_of(products.reshape(batch, kv_heads, -1, slots))
    allowed = for_groups(allowed, heads // kv_heads)
    if allowed is not None:
        logits = jnp.where(allowed, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).reshape(*q_XC.shape[:-1], slots)
    out = jnp.matmul(weights, cache["value"].astype(wide))
    out = out.reshape(q_BKGTC.shape).transpose(0, 3, 1, 2, 4)
    return out.reshape(q.shape).astype(q.dtype)
