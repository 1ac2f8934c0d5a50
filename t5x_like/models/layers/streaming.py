# SPDX-License-Identifier: Apache-2.0
"""A sliding window with attention sinks (StreamingLLM, Xiao et al. 2024, "Efficient streaming language models with
attention sinks").

The query at position i of a document looks at the last W keys, its own among them, and at the first n, the sinks.
Positions are those within a cache of n + W slots: a sink at s is no more than n + W - 1 - s away, however long ago.

    slot      0 ... n - 1   n ... n + W - 1
    holds     the sinks     the last W keys, the one at position p >= n in slot n + (p - n) mod W
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.attention import AttentionConfig, StreamingAttentionConfig
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.attention import Attended, Attention, Logits
from t5x_like.models.layers.cached_attention import Cache, CacheSizes
from t5x_like.models.layers.masks import MASKED, from_the_start
from t5x_like.models.layers.parts import Part, merged, part

EMPTY = -1  # the position of a slot that holds nothing


class StreamingAttention(Attention):
    """Self-attention of that kind."""

    @staticmethod
    def empty_cache(sizes: CacheSizes, kind: AttentionConfig | None) -> Cache:
        """Keys and values [B, S, K, C], and the positions that they are of, int [B, S]."""
        assert isinstance(kind, StreamingAttentionConfig)
        slots = kind.sinks + kind.window
        held = jnp.zeros((sizes.batch_size, slots, sizes.kv_heads, sizes.head_dim), sizes.dtype)
        return {"key": held, "value": held, "position": jnp.full((sizes.batch_size, slots), EMPTY, jnp.int32)}

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        return merged(self._own(self._scaled(q), k, v, mask, ctx), v.dtype)

    def _own(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> list[Part]:
        rules = self.kind
        near_mask = mask.replace(window=rules.window, kv=mask.q, offset=0)
        near = part(q, k, v, near_mask, ctx, ctx.bias, self.soft_cap)
        return [near, self._sinks(q, k, v, mask, ctx)] if rules.sinks and q.shape[1] > rules.window else [near]

    def _sinks(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> Part:
        """Each query with the sinks of its document that its window has left behind."""
        rules, positions = self.kind, ctx.positions
        assert positions is not None
        sinks = jnp.arange(rules.sinks)
        turned, counted = self._as_in_cache(q, positions), self._within_cache(positions)[..., None]
        if mask.q.segments is None and from_the_start(mask) and not mask.reordered:  # all queries have the same ones
            k, v, sinks = k[:, : rules.sinks], v[:, : rules.sinks], sinks[: k.shape[1]]
            return self._dense(turned, k, v, positions[..., None] - sinks >= rules.window, sinks - counted, ctx)
        first = jnp.arange(q.shape[1]) - positions  # index of the document's first token
        place = first[..., None] + sinks  # [B, T, n]; below 0 in an earlier call
        at = jnp.clip(place, 0, q.shape[1] - 1)

        def of_sinks(y: jax.Array) -> jax.Array:
            found = jnp.take_along_axis(y, at.reshape(y.shape[0], -1)[..., None, None], axis=1)
            return found.reshape(*at.shape, *y.shape[2:])

        seen = (positions[..., None] - sinks >= rules.window) & (place >= 0)
        return self._dense(turned, of_sinks(k), of_sinks(v), seen, sinks - counted, ctx)

    def _within_cache(self, positions: jax.Array) -> jax.Array:
        """Positions of queries as a full cache counts them."""
        return jnp.minimum(positions, self.kind.sinks + self.kind.window - 1)

    def _as_in_cache(self, q: jax.Array, positions: jax.Array) -> jax.Array:
        if self.rotary is None:
            return q
        return self.rotary.turned(q, self._within_cache(positions) - positions, again=True)

    def _dense(
        self, q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array, distance: jax.Array, ctx: Context
    ) -> Part:
        """Each query [B, T, H, C] with keys of its own, [B, T, S, K, C], or with those of all, [B, S, K, C]. `seen` is
        bool [B, T, S], `distance` int [B, T, S]."""
        wide, (batch, length, heads, width), kv_heads = ctx.policy.softmax, q.shape, k.shape[-2]
        keys = "BTSKC" if k.ndim == 5 else "BSKC"
        q_BTKGC = q.reshape(batch, length, kv_heads, -1, width).astype(wide)
        products = jnp.einsum(f"BTKGC,{keys}->BKGTS", q_BTKGC, k.astype(wide)) / math.sqrt(width)
        rows = products.reshape(batch, kv_heads, -1, products.shape[-1])
        logits = Logits(ctx.bias, self.soft_cap, ctx.policy).of(rows, lambda: distance).reshape(products.shape)
        logits = jnp.where(seen[:, None, None], logits, MASKED)
        largest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
        weights = jnp.where(seen[:, None, None], jnp.exp(logits - largest), 0.0)
        total = weights.sum(-1)
        out = jnp.einsum(f"BKGTS,{keys}->BTKGC", weights, v.astype(wide)).reshape(q.shape)
        total_BTH = total.transpose(0, 3, 1, 2).reshape(batch, length, heads)
        some = total_BTH > 0
        norm = jnp.where(some, total_BTH, 1.0)
        log = jnp.log(norm) + largest[..., 0].transpose(0, 3, 1, 2).reshape(total_BTH.shape)
        return Part(out / norm[..., None], jnp.where(some, log, MASKED))

    def _to_self(self, x: jax.Array, mask: MaskSpec, ctx: Context, cache: Cache | None) -> Attended:
        q, k, v = self._made(x, mask, ctx)
        if cache is None:
            return self._mix(x, q, k, v, mask, ctx), None
        if from_the_start(mask):
            y = self._mix(x, q, k, v, mask, ctx)
        else:
            old = self._held(self._scaled(q), ctx, cache)
            y = merged([*old, *self._own(self._scaled(q), k, v, mask, ctx)], v.dtype)
        return y, self._kept(k, v, mask, ctx, cache)

    def _held(self, q: jax.Array, ctx: Context, cache: Cache) -> list[Part]:
        """New tokens with what the cache holds."""
        rules, now = self.kind, ctx.positions
        assert now is not None
        n, parts = rules.sinks, []
        for slots, queries, counted in (
            (slice(0, n), self._as_in_cache(q, now), self._within_cache(now)),
            (slice(n, None), q, now),
        ):
            there = cache["position"][:, None, slots]
            near = (now[..., None] - there < rules.window) | (there < n)
            keys, values = (cache[name][:, slots] for name in ("key", "value"))
            seen = (there != EMPTY) & near
            parts.append(self._dense(queries, keys, values, seen, there - counted[..., None], ctx))
        return parts if n else parts[1:]

    def _kept(self, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context, cache: Cache) -> Cache:
        """The cache after new tokens, whose real ones stand side by side in each row."""
        rules, positions = self.kind, ctx.positions
        assert positions is not None
        n, window = rules.sinks, rules.window
        real = jnp.ones_like(positions) if mask.q.segments is None else mask.q.segments
        real = real > 0
        count = real.sum(1, keepdims=True)
        last = jnp.max(jnp.where(real, positions, EMPTY), axis=1, keepdims=True)  # [B, 1]
        slots = jnp.arange(n + window)
        wanted = jnp.where(slots < n, slots, last - (last - slots) % window)  # position of what lies there now
        valid = jnp.where(slots < n, wanted <= last, wanted >= n)
        new = valid & (wanted > last - count)
        end = jnp.max(jnp.where(real, jnp.arange(positions.shape[1]), 0), axis=1, keepdims=True)
        at = jnp.maximum(end - (last - wanted), 0)

        def write(held: jax.Array, made: Any) -> jax.Array:
            pick = at[..., None, None], new[..., None, None]
            return jnp.where(pick[1], jnp.take_along_axis(made, pick[0], axis=1).astype(held.dtype), held)

        axes = "batch kv_length kv_heads head_dim"
        return {
            "key": ctx.constrain(write(cache["key"], k), axes),
            "value": ctx.constrain(write(cache["value"], v), axes),
            "position": jnp.where(new, wanted, cache["position"]),
        }
