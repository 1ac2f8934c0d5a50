# SPDX-License-Identifier: Apache-2.0
"""The Sparse Transformer's factorised attention (Child et al. 2019, "Generating long sequences with sparse
transformers", section 4.3). With stride s and c columns, query i looks at the keys j <= i with

    strided   first   i - j < s                          second   (i - j) mod s = 0
    fixed     first   floor(j / s) = floor(i / s)        second   j mod s >= s - c

Each is computed where it is dense: a window, the tokens of one residue, a block, the columns of all blocks.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.blockwise import NO_KEYS
from t5x_like.models.layers.parts import Part, apart, merged, part


class SparseTransformerAttention(Attention):
    """Self-attention of that kind. Indices count within a row: documents that share one share its blocks and columns. A
    prompt that fills a cache is masked instead, since padding in front of it would shift them."""

    by_position: ClassVar[bool] = True

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        rules = self.kind
        q, dtype = self._scaled(q), v.dtype
        if rules.combine == "merged":
            return merged([self._first(q, k, v, mask, ctx), self._second(q, k, v, mask, ctx, without=True)], dtype)
        if rules.half is not None:
            return merged([(self._first if rules.half == "first" else self._second)(q, k, v, mask, ctx)], dtype)
        (q, q_2), (k, k_2), (v, v_2) = (jnp.split(y, 2, axis=2) for y in (q, k, v))
        parts = self._first(q, k, v, mask, ctx), self._second(q_2, k_2, v_2, mask, ctx)
        return jnp.concatenate([each.out for each in parts], axis=2).astype(dtype)

    def _first(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> Part:
        rules = self.kind
        if rules.pattern == "strided":
            return part(q, k, v, mask.replace(window=rules.stride), ctx, soft_cap=self.soft_cap)

        def block(q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec) -> Part:
            return part(q, k, v, mask, ctx, soft_cap=self.soft_cap)

        return apart(rules.stride, block, q, k, v, mask, stride=False)

    def _second(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context, without: bool = False
    ) -> Part:
        """`without` leaves out what the first half has."""
        rules = self.kind
        if rules.pattern == "strided":

            def dense(q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec) -> Part:
                return part(q, k, v, mask.replace(offset=-1 if without else 0), ctx, soft_cap=self.soft_cap)

            return apart(rules.stride, dense, q, k, v, mask, stride=True)
        places = jnp.arange(q.shape[1])
        columns = [i for i in range(k.shape[1]) if i % rules.stride >= rules.stride - rules.columns]
        if not columns:
            return Part(jnp.zeros(q.shape, ctx.policy.softmax), jnp.full(q.shape[:3], NO_KEYS, ctx.policy.softmax))
        if without:  # the last key before a query's own block
            places = places // rules.stride * rules.stride - 1
        at = jnp.asarray(columns)
        k, v = k[:, at], v[:, at]
        kv: Marks = jax.tree.map(lambda y: y[:, at], mask.kv)
        of_keys, of_queries = (jnp.broadcast_to(y, (q.shape[0], *y.shape)) for y in (at, places))
        mask = mask.replace(q=mask.q.replace(index=of_queries), kv=kv.replace(index=of_keys))
        return part(q, k, v, mask, ctx, soft_cap=self.soft_cap)

    def _near(self, mask: MaskSpec, queries: jax.Array | None, keys: jax.Array | None) -> jax.Array | None:
        del mask
        assert queries is not None and keys is not None
        rules, i, j = self.kind, queries[:, :, None], keys[:, None, :]
        if rules.pattern == "strided":
            first, second = i - j < rules.stride, (i - j) % rules.stride == 0
        else:
            first = j // rules.stride == i // rules.stride
            second = jnp.broadcast_to(j % rules.stride >= rules.stride - rules.columns, first.shape)
        if rules.combine == "merged":
            return first | second
        if rules.half is not None:
            return first if rules.half == "first" else second
        half: Any = self.num_heads // 2
        return jnp.stack([first] * half + [second] * half, axis=1)
