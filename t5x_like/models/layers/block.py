# SPDX-License-Identifier: Apache-2.0
"""One layer of a Transformer: self-attention, maybe cross-attention, then a feed-forward network or experts."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config import TransformerConfig
from t5x_like.config.attention import AttentionConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.cached_attention import Cache, CacheSizes, empty_cache
from t5x_like.models.layers.embeddings import dropout
from t5x_like.models.layers.experts import Aux, Experts
from t5x_like.models.layers.feed_forward import FeedForward
from t5x_like.models.layers.kinds import layer_of
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import ParamSpec, parameter
from t5x_like.models.layers.positions import Rotary

Branch = Callable[[jax.Array], jax.Array]
Caches = dict[str, Cache]  # of every attention, or its weights
# What each branch's randomness is folded with; 2 is a router's.
KEYS = {"attention": 0, "mlp": 1, "cross_attention": 3, "cross_mlp": 4}


class Block(nn.Module):
    """Residual branches f, one after the other, with a norm where the config's `norm_position` says:

    pre        x = x + f(norm(x))            GPT-2, T5, LLaMA
    post       x = norm(x + f(x))            Vaswani et al. 2017, BERT
    sandwich   x = x + norm'(f(norm(x)))     Gemma 2
    parallel   x = x + attention(norm(x)) + mlp(norm'(x))    GPT-NeoX; cross-attention, if any, after it
    parallel_shared    the same with one norm for both       GPT-J

    Cross-attention comes second, or, where the config says that it is gated, first, with a network of its own:

    x = x + tanh(a) cross_attention(norm(x));  x = x + tanh(b) mlp(norm(x))    Flamingo; a and b begin with 0

    Maps back to the stream start smaller by the root of `branches`, which keeps its variance near 1 at any depth.
    """

    config: TransformerConfig  # resolved
    cross: bool = False  # whether the block looks at `ctx.memory`
    experts: bool = False  # whether experts stand in the place of the mlp
    sees_all: bool = False  # whether self-attention does without the config's window
    branches: int = 2  # residual ones, of the whole stack
    kind: AttentionConfig | None = None  # of self-attention, see `config/attention.py`; None: softmax over all keys

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, cache: Caches | None) -> tuple[jax.Array, Caches | None, Aux]:
        c = self.config
        caches: Caches = {}
        aux: Aux = {}

        def attention(name: str, **more: Any) -> Branch:
            layer = self._attention(name, **more)

            def call(y: jax.Array) -> jax.Array:
                y, new = layer(y, ctx, None if cache is None else cache[name])
                if new is not None:
                    caches[name] = new
                return y

            return call

        def experts(y: jax.Array) -> jax.Array:
            y, judged = self._experts()(y, ctx)
            aux.update({name: value / c.expert_layers for name, value in judged.items()})  # the stack adds them up
            return y

        branches = {"attention": attention("attention", kind=self.kind, **self._within())}
        if self.cross:
            look = attention("cross_attention", cross=True, memory_width=c.memory_width)
            if c.cross_gated:
                x = self._gated("cross_attention", look, x, ctx)
                x = self._gated("cross_mlp", lambda y: self._feed_forward("cross_mlp")(y, ctx), x, ctx)
            else:
                branches["cross_attention"] = look
        branches["mlp"] = experts if self.experts else lambda y: self._feed_forward()(y, ctx)
        if c.norm_position.startswith("parallel"):
            shared = self._norm("attention")(x) if c.norm_position == "parallel_shared" else None
            both = [self._branch(name, branches.pop(name), x, ctx, shared) for name in ("attention", "mlp")]
            x = x + both[0] + both[1]
        for name, function in branches.items():
            y = self._branch(name, function, x, ctx)
            x = self._norm(name)(x + y) if c.norm_position == "post" else x + y
        return x, caches or None, aux

    def _branch(
        self, name: str, function: Branch, x: jax.Array, ctx: Context, normed: jax.Array | None = None
    ) -> jax.Array:
        c = self.config
        if normed is None:
            normed = x if c.norm_position == "post" else self._norm(name)(x)
        y = function(normed)
        if c.norm_position == "sandwich":
            y = self._norm(f"{name}_out")(y)
        return ctx.constrain(dropout(y, c.dropout_rate, ctx.folded(KEYS[name]), ctx.train), "batch length embed")

    def _gated(self, name: str, function: Branch, x: jax.Array, ctx: Context) -> jax.Array:
        gate = parameter(self, f"{name}_gate", ParamSpec((1,), ("types",)))
        return x + jnp.tanh(gate).astype(x.dtype) * self._branch(name, function, x, ctx)

    def _norm(self, branch: str) -> Norm:
        c = self.config
        return Norm(c.norm, c.norm_epsilon, c.use_bias, around_one=c.norm_around_one, name=f"{branch}_norm")

    def _within(self) -> dict[str, Any]:
        """Which keys self-attention sees, and how it is told where they are."""
        c = self.config
        window = None if self.sees_all else c.window
        own = c.local_rope_theta if window is not None else None
        turn = None
        if c.positions == "rotary":
            turn = Rotary(own or c.rope_theta, None if own else c.rope_scaling, c.rope_dim, c.rope_neighbours)
        return {"rotary": turn, "window": window}

    @property
    def _out_scale(self) -> float:
        return 1 / math.sqrt(self.branches) if self.config.scaled_by_depth else 1.0

    def _attention(self, name: str, **more: Any) -> Attention:
        c = self.config
        assert c.num_kv_heads and c.head_dim
        sizes = c.d_model, c.num_heads, c.num_kv_heads, c.head_dim
        more |= {"soft_cap": c.attention_soft_cap, "scale": c.attention_scale, "name": name}
        if c.query_key_norm or (c.cross_query_key_norm and more.get("cross")):
            more |= {"norm_epsilon": c.norm_epsilon, "norm_around_one": c.norm_around_one}
        more["max_length"] = c.max_length
        layer = layer_of(more.get("kind"))
        return layer(*sizes, c.attention_bias or ("all" if c.use_bias else "none"), self._out_scale, **more)

    def _feed_forward(self, name: str = "mlp") -> FeedForward:
        c = self.config
        assert c.mlp_dim
        return FeedForward(c.d_model, c.mlp_dim, c.activation, c.gated_mlp, c.use_bias, self._out_scale, name=name)

    def _experts(self) -> Experts:
        c = self.config
        assert c.experts is not None
        return Experts(c.experts, c.d_model, c.activation, c.gated_mlp, c.use_bias, self._out_scale, name="experts")

    def empty_cache(self, batch_size: int, length: int, memory_length: int, dtype: Any) -> Caches:
        """Slots for the keys and values of every attention: those of a memory are filled once."""
        c = self.config
        assert c.num_kv_heads and c.head_dim
        sizes = CacheSizes(batch_size, c.num_kv_heads, length, c.head_dim, dtype)
        caches = {"attention": layer_of(self.kind).empty_cache(sizes, self.kind)}
        return caches | ({"cross_attention": empty_cache(*sizes._replace(slots=memory_length))} if self.cross else {})
