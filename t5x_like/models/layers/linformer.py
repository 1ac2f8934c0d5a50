# SPDX-License-Identifier: Apache-2.0
"""Linformer (Wang et al. 2020, "Self-attention with linear complexity", equation 7): keys and values are mapped along
the length to a fixed number P of them.

    softmax(q (E k)^T / sqrt(C)) F v      E, F: [P, S]

E and F are learned for a greatest length; a shorter sequence takes their first columns, and padding counts as zeros.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import TransformerConfig
from t5x_like.config.attention import AttentionConfig, LinformerAttentionConfig
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, parameter


def maps(kind: LinformerAttentionConfig, length: int, kv_heads: int) -> dict[str, ParamSpec]:
    """The parameters of a layer, or of all layers where these share them: kept [S, P], or [S, K, P] by head."""
    by_head = kind.shared == "none"
    shape = (length, *([kv_heads] if by_head else []), kind.projected)
    axes = ("length", *(["kv_heads"] if by_head else []), "projected")
    spec = ParamSpec(shape, axes, ("length",), axes[1:], Normal(1 / math.sqrt(kind.projected)), lookup=True)
    return dict.fromkeys(("key_map", "value_map") if kind.shared in ("none", "heads") else ("map",), spec)


class LinformerAttention(Attention):
    """Self-attention of that kind."""

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        assert self.max_length
        if self.kind.shared == "layers":
            if self.is_initializing():  # the stack declares it
                return q
            assert ctx.shared is not None
            found = ctx.shared["length"]
        else:
            specs = maps(self.kind, self.max_length, self.num_kv_heads)
            found = {name: parameter(self, name, spec) for name, spec in specs.items()}
        if mask.q.segments is not None:
            k, v = (y * (mask.q.segments > 0)[..., None, None].astype(y.dtype) for y in (k, v))
        k, v = (
            ctx.constrain(self._projected(y, found.get(name, found.get("map"))), "batch kv_length kv_heads head_dim")
            for name, y in (("key_map", k), ("value_map", v))
        )
        return self._attend(q, k, v, MaskSpec(causal=False), None, ctx)

    def _projected(self, x: jax.Array, kernel: Any) -> jax.Array:
        """[B, S, K, C] to [B, P, K, C]."""
        kernel = kernel[: x.shape[1]].astype(x.dtype)
        return jnp.einsum("BSKC,SKP->BPKC" if kernel.ndim == 3 else "BSKC,SP->BPKC", x, kernel)


def shared(kind: AttentionConfig, config: TransformerConfig) -> Params:
    """The map that all layers share, where they do."""
    assert isinstance(kind, LinformerAttentionConfig) and config.max_length and config.num_kv_heads
    return {"length": maps(kind, config.max_length, config.num_kv_heads)} if kind.shared == "layers" else {}
