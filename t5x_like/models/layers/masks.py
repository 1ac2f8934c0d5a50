# SPDX-License-Identifier: Apache-2.0
"""What a `MaskSpec` says, spelt out as far as an implementation of attention needs it."""

import jax
import jax.numpy as jnp

from t5x_like.models.context import Marks, MaskSpec

MASKED = -1e30  # a logit that is masked out; finite, so that no difference of two logits is NaN


def conditions(mask: MaskSpec, q_index: jax.Array, k_index: jax.Array, q: Marks, kv: Marks) -> jax.Array | None:
    """Who of some queries may look at which of some keys, by a mask's causality and window: bool [B or 1, T, S]; None:
    all. Indices, int [T] and [S], count among all keys, but where the marks have others."""
    behind = -distance(q_index, k_index, q, kv)
    allowed = None
    if mask.causal:
        allowed = behind >= 0
        if kv.prefix is not None:
            allowed = allowed | kv.prefix[:, None, :]
    if mask.window is not None:
        near = within_window(mask, behind)
        if q.everywhere is not None:
            near = near | q.everywhere[:, :, None]
        if kv.everywhere is not None:
            near = near | kv.everywhere[:, None, :]
        allowed = near if allowed is None else allowed & near
    if q.segments is not None and kv.segments is not None:
        same = q.segments[:, :, None] == kv.segments[:, None, :]
        if kv.shared is not None:
            same = same | kv.shared[:, None, :]
        allowed = same if allowed is None else allowed & same
    return allowed


def distance(q_index: jax.Array, k_index: jax.Array, q: Marks, kv: Marks) -> jax.Array:
    """How far keys stand behind the queries, below 0 where before: int [B or 1, T, S]."""
    queries = q_index[None] if q.index is None else q.index
    keys = k_index[None] if kv.index is None else kv.index
    return keys[:, None, :] - queries[:, :, None]


def within_window(mask: MaskSpec, behind: jax.Array) -> jax.Array:
    """Whether a key so far behind its query, by index or by position, is in the query's window."""
    assert mask.window is not None
    near = behind < mask.window * mask.dilation
    if not mask.causal:
        near &= behind > -mask.window * mask.dilation
    return near & (behind % mask.dilation == 0) if mask.dilation > 1 else near


def dense_mask(mask: MaskSpec, length: int, kv_length: int) -> jax.Array | None:
    """Spells a MaskSpec out as bool [B or 1, T, S], true where the query may look; None when it may look everywhere."""
    q_index = mask.offset + jnp.arange(length)
    allowed = conditions(mask, q_index, jnp.arange(kv_length), mask.q, mask.kv)
    if mask.allowed is not None:
        allowed = mask.allowed if allowed is None else allowed & mask.allowed
    return allowed


def from_the_start(mask: MaskSpec) -> bool:
    """Whether query 0 is known to stand at key 0 when the program is traced; not so when decoding through a cache."""
    return isinstance(mask.offset, int) and mask.offset == 0


def may_leave_a_query_alone(mask: MaskSpec, length: int, kv_length: int) -> bool:
    """Whether a query could be left without any key: then, and only then, an implementation has to look."""
    if mask.allowed is not None or mask.reordered:
        return True
    if mask.q.segments is not None:
        of_self = mask.q.segments is mask.kv.segments and from_the_start(mask)  # a query sees at least itself
        return not of_self
    return mask.window is not None and not (from_the_start(mask) and length <= kv_length)


def both(one: jax.Array, other: jax.Array) -> jax.Array:
    """Where both hold: bool [B or 1, T, S], or [B or 1, H, T, S] if heads differ in one of them."""
    rank = max(one.ndim, other.ndim)
    one, other = (x[:, None] if x.ndim < rank else x for x in (one, other))
    return one & other


def for_groups(allowed: jax.Array | None, groups: int) -> jax.Array | None:
    """[B or 1, T, S] or [B or 1, H, T, S] to [B or 1, 1 or K, X, S], X running over T within the G that share keys."""
    if allowed is None:
        return None
    if allowed.ndim == 4:
        return allowed.reshape(allowed.shape[0], allowed.shape[1] // groups, -1, allowed.shape[-1])
    return (allowed if groups == 1 else jnp.tile(allowed, (1, groups, 1)))[:, None]


def zero_where_alone(out: jax.Array, allowed: jax.Array | None) -> jax.Array:
    """Sets out [B, N, X, C] to 0 for rows that may look at no key; `allowed` is bool [B or 1, 1, X, S]."""
    return out if allowed is None else jnp.where(allowed.any(axis=-1, keepdims=True), out, 0)
