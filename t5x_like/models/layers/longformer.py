# SPDX-License-Identifier: Apache-2.0
"""Longformer's attention (Beltagy et al. 2020, "Longformer: the long-document Transformer", section 3.1).

    most queries      softmax over the keys of their window and the keys of global tokens
    global queries    softmax over all keys, with queries, keys and values made by maps of their own

Windows may be dilated in some heads. The window is computed by blocks, global tokens are gathered.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.parts import NOBODY, Part, apart, merged, part, with_segments


class Far(NamedTuple):
    """The global tokens of each row, those that come first: room for G."""

    at: jax.Array  # int [B, G], their places
    there: jax.Array  # bool [B, G], whether there is one


class LongformerAttention(Attention):
    """Self-attention of that kind. Its further parameters are global_query, global_key and global_value."""

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        rules, dtype = self.kind, v.dtype
        mask = mask.replace(window=rules.reach)
        q, far = self._scaled(q), self._far(x, mask, ctx)
        marks = mask.kv
        if far is None:
            if self.is_initializing() and not mask.causal:  # declares what a batch with global tokens will ask for
                self._of_global(x, x[:, :1], MaskSpec(causal=False), ctx)
            return merged([self._window(q, k, v, _without_far(mask), ctx)], dtype)
        marks = with_segments(marks, k)
        assert marks.segments is not None
        of_row = jnp.arange(x.shape[0])[:, None]
        segments = jnp.where(far.there, marks.segments[of_row, far.at], NOBODY)
        hidden = marks.segments.at[of_row, jnp.where(far.there, far.at, x.shape[1])].set(NOBODY, mode="drop")
        near = mask.replace(q=Marks(marks.segments), kv=Marks(hidden))
        seen = MaskSpec(causal=False, q=Marks(marks.segments), kv=Marks(segments))
        parts = [
            self._window(q, k, v, near, ctx),
            part(q, k[of_row, far.at], v[of_row, far.at], seen, ctx, soft_cap=self.soft_cap),
        ]
        y = merged(parts, dtype)
        everything = MaskSpec(causal=False, q=Marks(segments), kv=Marks(marks.segments))
        of_far = self._of_global(x, x[of_row, far.at], everything, ctx)
        return y.at[of_row, jnp.where(far.there, far.at, x.shape[1])].set(of_far.astype(dtype), mode="drop")

    def _far(self, x: jax.Array, mask: MaskSpec, ctx: Context) -> Far | None:
        rules, marks = self.kind, mask.q
        everywhere = marks.everywhere
        if everywhere is None and rules.global_tokens:
            assert ctx.positions is not None
            everywhere = ctx.positions < rules.global_tokens
        if everywhere is None or mask.causal:
            return None
        if marks.segments is not None:
            everywhere &= marks.segments > 0
        room = min(rules.max_global, x.shape[1])
        first = jnp.where(everywhere, jnp.arange(x.shape[1], 0, -1), 0)  # the first tokens have the largest numbers
        there, at = jax.lax.top_k(first, room)
        return Far(at, there > 0)

    def _window(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> Part:
        rules = self.kind

        def near(q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec) -> Part:
            return part(q, k, v, mask, ctx, ctx.bias, self.soft_cap)

        dilation = 1 if rules.dilations is None else rules.dilations[0]
        if dilation == 1:
            return near(q, k, v, mask)
        plain = q.shape[2] - rules.dilated_heads
        (q, q_2), (k, k_2), (v, v_2) = (jnp.split(y, [plain], axis=2) for y in (q, k, v))
        parts = [near(q, k, v, mask)] if plain else []
        parts.append(apart(dilation, near, q_2, k_2, v_2, mask, stride=True))
        return Part(*(jnp.concatenate(both, axis=2) for both in zip(*parts, strict=True)))

    def _of_global(self, x: jax.Array, far: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        """Values for the global tokens [B, G, D], which look at all of x."""
        q = self._heads("global_query", "BTD,DHC->BTHC", (self.num_heads,), ("heads",), met=0.0)(far, ctx)
        met = 1.0 if self.kind.global_tokens else 0.0
        k, v = (self._heads(f"global_{name}", met=met)(x, ctx) for name in ("key", "value"))
        k, v = (ctx.constrain(y, "batch length kv_heads head_dim") for y in (k, v))
        return self._attend(q, k, v, mask, None, ctx)

    def _near(self, mask: MaskSpec, queries: jax.Array | None, keys: jax.Array | None) -> jax.Array | None:
        assert queries is not None and keys is not None
        rules, behind = self.kind, queries[:, :, None] - keys[:, None, :]
        dilation = 1 if rules.dilations is None else rules.dilations[0]
        plain = behind < rules.reach
        if dilation == 1:
            return plain
        dilated = (behind < rules.reach * dilation) & (behind % dilation == 0)
        number = self.num_heads - rules.dilated_heads
        return jnp.stack([plain] * number + [dilated] * rules.dilated_heads, axis=1)


def _without_far(mask: MaskSpec) -> MaskSpec:
    """Marks of global tokens mean nothing to a causal stack."""
    return mask.replace(q=mask.q.replace(everywhere=None), kv=mask.kv.replace(everywhere=None))
