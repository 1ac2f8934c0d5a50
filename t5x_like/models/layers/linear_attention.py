# SPDX-License-Identifier: Apache-2.0
"""Linear attention (Katharopoulos et al. 2020, "Transformers are RNNs"): weights f(q) f(k) instead of exp(q k).

    y_i = f(q_i) S_i / f(q_i) z_i      S_i = sum_j f(k_j) v_j^T      z_i = sum_j f(k_j)

over the keys j that query i may see: all, or those up to i. The sums are carried from chunk to chunk, so time and
memory grow with the length, and a cache holds S and z alone. Here f(x) = elu(x) + 1 in each dimension (equation 7);
`performer.py` has another.

Differs from the paper: products in a chunk are computed as the [chunk, chunk] matrix that they are, not by a kernel.
"""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.attention import AttentionConfig, LinearAttentionConfig
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.attention import Attended, Attention
from t5x_like.models.layers.cached_attention import Cache, CacheSizes
from t5x_like.models.layers.parts import NOBODY, in_blocks

CHUNK = 128  # tokens; the matrix of a chunk costs as much as its sums where a head has so many features


class LinearAttention(Attention):
    """Self-attention of that kind."""

    @staticmethod
    def empty_cache(sizes: CacheSizes, kind: AttentionConfig | None) -> Cache:
        """[S, z], [B, K, F, C + 1] float32, and the logarithm of what they are to be multiplied by, [B, K]."""
        assert isinstance(kind, LinearAttentionConfig)
        features = getattr(kind, "features", sizes.head_dim)
        state = jnp.zeros((sizes.batch_size, sizes.kv_heads, features, sizes.head_dim + 1), jnp.float32)
        return {"state": state, "scale": jnp.full(state.shape[:2], -jnp.inf, jnp.float32)}

    def _features(self, ctx: Context) -> Any:
        """What `_mapped` needs to know beside its input."""
        del ctx

    def _mapped(self, x: jax.Array, features: Any) -> tuple[jax.Array, jax.Array]:
        """Queries or keys [B, T, N, C], wide, to the logarithm of a factor [B, T, N, 1] and features [B, T, N, F], f
        being their product."""
        del features
        return jnp.zeros((*x.shape[:-1], 1), x.dtype), jax.nn.elu(x) + 1

    def _to_self(self, x: jax.Array, mask: MaskSpec, ctx: Context, cache: Cache | None) -> Attended:
        q, k, v = self._made(x, mask, ctx)
        wide, features = ctx.policy.softmax, self._features(ctx)
        (_, q_f), (k_log, k_f) = (self._mapped(y.astype(wide), features) for y in (self._scaled(q), k))
        segments = jnp.ones(x.shape[:2], jnp.int32) if mask.q.segments is None else mask.q.segments
        k_log = jnp.where(segments[..., None, None] > 0, k_log, -jnp.inf)
        largest = k_log.max(axis=(1, 3))  # a factor that all keys of a head share cancels out
        start = None
        if cache is not None:
            largest = jnp.maximum(largest, cache["scale"])
            start = cache["state"] * _factor(cache["scale"], largest)[..., None, None]
        k_f = k_f * jax.lax.stop_gradient(_factor(k_log, largest[:, None, :, None]))
        v_1 = jnp.concatenate([v.astype(wide), jnp.ones((*v.shape[:-1], 1), wide)], axis=-1)
        out, state = attended(q_f, k_f, v_1, segments, mask.causal, start)
        norm = out[..., -1:]
        y = (out[..., :-1] / jnp.where(norm == 0, 1.0, norm)).astype(v.dtype)
        return y, None if cache is None else {"state": state, "scale": largest}


def _factor(log: jax.Array, largest: jax.Array) -> jax.Array:
    """exp(log - largest), 0 where there is nothing."""
    return jnp.where(jnp.isfinite(log), jnp.exp(log - jnp.where(jnp.isfinite(largest), largest, 0.0)), 0.0)


def attended(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array, causal: bool, start: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sums over the keys of a query's own segment of (q k) v, [B, T, H, C], and the sum of k v^T over those of the last
    segment, [B, K, F, C].

    Args:
      q, k, v: [B, T, H, F], [B, T, K, F] and [B, T, K, C].
      segments: int [B, T], those of a segment side by side; 0 is nobody's key.
      causal: whether keys after a query are left out.
      start: [B, K, F, C], of earlier keys, which are of the first segment.
    """
    batch, length, heads, features = q.shape
    kv_heads = k.shape[2]
    size = min(CHUNK, length)
    q = q.reshape(batch, length, kv_heads, heads // kv_heads, features)
    state = jnp.zeros((batch, kv_heads, features, v.shape[-1]), q.dtype) if start is None else start
    nobody = jnp.full((batch,), NOBODY, jnp.int32)
    past = nobody if start is None else jnp.max(segments, axis=1)  # of whatever segment the first real token is
    xs = tuple(jnp.moveaxis(in_blocks(x, size), 1, 0) for x in (q, k, v, segments))  # [N, B, chunk, ...]

    def forward(carry: Any, chunk: Any) -> tuple[Any, jax.Array]:
        return _chunk(carry, chunk, jnp.tril(jnp.ones((size, size), bool)) if causal else None)

    def backward(carry: Any, chunk: Any) -> tuple[Any, jax.Array]:
        """Only what later chunks hold: a chunk's own keys have been seen on the way forward."""
        return _chunk(carry, chunk, None, own=False, first=True)

    (past, state), out = jax.lax.scan(forward, (past, state), xs)
    if not causal:
        out += jax.lax.scan(backward, (nobody, jnp.zeros_like(state)), xs, reverse=True)[1]
    out = jnp.moveaxis(out, 0, 1).reshape(batch, -1, heads, v.shape[-1])
    return out[:, :length], state


def _chunk(
    carry: tuple[jax.Array, jax.Array], chunk: Any, allowed: jax.Array | None, own: bool = True, first: bool = False
) -> tuple[Any, jax.Array]:
    """One chunk with the sum of what went before it, which is of the segment `past`, and with itself if `own`. The sum
    goes on with the chunk's last segment, or, the other way round, with its `first`."""
    past, state = carry
    q, k, v, segments = chunk
    seen = (segments == past[:, None]).astype(q.dtype)
    out = jnp.einsum("BTKGF,BKFC->BTKGC", q * seen[..., None, None, None], state)
    if own:
        same = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] > 0)
        same = same if allowed is None else same & allowed
        weights = jnp.einsum("BTKGF,BSKF->BKGTS", q, k) * same[:, None, None]
        out += jnp.einsum("BKGTS,BSKC->BTKGC", weights, v)
    following = _edge(segments, first, past)
    of_it = ((segments == following[:, None]) & (segments > 0)).astype(q.dtype)
    kept = (following == past).astype(q.dtype)[:, None, None, None]
    state = kept * state + jnp.einsum("BSKF,BSKC->BKFC", k * of_it[..., None, None], v)
    return (following, state), out


def _edge(segments: jax.Array, first: bool, otherwise: jax.Array) -> jax.Array:
    """The first or last real segment [B] of a chunk [B, T]; `otherwise` where all of it is padding."""
    places = jnp.arange(segments.shape[1])
    real = segments > 0
    at = jnp.argmax(real, axis=1) if first else jnp.argmax(jnp.where(real, places, -1), axis=1)
    return jnp.where(real.any(axis=1), jnp.take_along_axis(segments, at[:, None], axis=1)[:, 0], otherwise)
