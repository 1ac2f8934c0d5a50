# SPDX-License-Identifier: Apache-2.0
"""The decoder-only family: GPT (Radford et al. 2018, 2019), LLaMA (Touvron et al. 2023) and Mixtral by their fields."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config import DecoderOnlyConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.attention import SelfAttention, joined
from t5x_like.models.layers.cached_attention import Cache, empty_cache
from t5x_like.models.layers.embeddings import Embedding, dropout
from t5x_like.models.layers.experts import Experts
from t5x_like.models.layers.feed_forward import FeedForward
from t5x_like.models.layers.linear import Linear, project, turned
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Params, call, initialise, record_specs
from t5x_like.models.layers.positions import sinusoidal
from t5x_like.models.stack import Stack


class DecoderBlock(nn.Module):
    """Attention, then feed-forward, each a residual branch.

    pre-norm   x = x + attention(norm(x));  x = x + mlp(norm(x))
    post-norm  x = norm(x + attention(x));  x = norm(x + mlp(x))

    Attributes:
      config: resolved.
      experts: whether experts stand in the place of the mlp.
    """

    config: DecoderOnlyConfig
    experts: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, ctx: Context, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None, dict[str, jax.Array]]:
        c = self.config
        assert c.num_kv_heads and c.head_dim and c.mlp_dim
        out_scale = 1 / math.sqrt(2 * c.num_layers)  # keeps the residual stream's variance near 1 at any depth
        attention = SelfAttention(
            c.d_model,
            c.num_heads,
            c.num_kv_heads,
            c.head_dim,
            c.rope_theta if c.positions == "rotary" else None,
            c.use_bias,
            out_scale,
            name="attention",
        )
        how = c.activation, c.gated_mlp, c.use_bias, out_scale
        aux: dict[str, jax.Array] = {}
        if self.experts:
            assert c.experts is not None
            experts = Experts(c.experts, c.d_model, *how, name="experts")
        else:
            dense = FeedForward(c.d_model, c.mlp_dim, *how, name="mlp")
        attention_norm = Norm(c.norm, c.norm_epsilon, c.use_bias, name="attention_norm")
        mlp_norm = Norm(c.norm, c.norm_epsilon, c.use_bias, name="mlp_norm")

        def mlp(y: jax.Array) -> jax.Array:
            if not self.experts:
                return dense(y, ctx)
            y, judged = experts(y, ctx)
            aux.update({name: value / c.expert_layers for name, value in judged.items()})  # the stack adds them up
            return y

        def branch(y: jax.Array, number: int) -> jax.Array:
            return ctx.constrain(dropout(y, c.dropout_rate, ctx.folded(number), ctx.train), "batch length embed")

        if c.norm_position == "pre":
            y, cache = attention(attention_norm(x), ctx, cache)
            x = x + branch(y, 0)
            x = x + branch(mlp(mlp_norm(x)), 1)
        else:
            y, cache = attention(x, ctx, cache)
            x = attention_norm(x + branch(y, 0))
            x = mlp_norm(x + branch(mlp(x), 1))
        return x, cache, aux


class DecoderOnly:
    """Token embeddings, a stack of causal blocks, logits.

    Attributes:
      config: resolved.
      aux_losses: {name in outputs["aux"]: its factor in what training minimises}.
    """

    def __init__(self, config: DecoderOnlyConfig):
        c = self.config = config
        assert c.vocab_size and c.max_length and c.num_kv_heads and c.head_dim
        self.vocab_size = c.vocab_size
        self.max_length = c.max_length if c.positions == "learned" else None
        self.stack = Stack((DecoderBlock(c),), c.num_layers)
        self.aux_losses: dict[str, float] = {}
        if c.experts is not None:  # every other layer of Switch-Base has them, every layer of Mixtral
            pattern = (*(DecoderBlock(c),) * (c.experts.every - 1), DecoderBlock(c, experts=True))
            self.stack = Stack(pattern, c.expert_layers)
            coefficients = {name: getattr(c.experts, name) for name in ("load_balance_loss", "router_z_loss")}
            self.aux_losses = {name: c.expert_layers * value for name, value in coefficients.items() if value}
        # Logits of a unit-variance hidden state through a tied table start with variance 1 at every width.
        self.token_embedding = Embedding(c.vocab_size, c.d_model, "vocab", 1 / math.sqrt(c.d_model))
        self.position_embedding = Embedding(c.max_length, c.d_model, "positions", 0.02)
        self.final_norm = Norm(c.norm, c.norm_epsilon, c.use_bias)
        self.logits = Linear("BTD,DV->BTV", (c.d_model,), ("embed",), (c.vocab_size,), ("vocab",))

    def specs(self) -> Params:
        """Returns the tree of ParamSpec that `init` draws and `apply` reads."""
        c = self.config
        tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
        x = jax.ShapeDtypeStruct((1, 1, c.d_model), jnp.float32)
        decoder = {"layers": self.stack.specs(c.d_model)}
        if c.norm_position == "pre":
            decoder["final_norm"] = record_specs(self.final_norm, x)
        specs = {"token_embedding": record_specs(self.token_embedding, tokens), "decoder": decoder}
        if c.positions == "learned":
            specs["position_embedding"] = record_specs(self.position_embedding, tokens)
        if not c.tie_embeddings:
            specs["logits"] = record_specs(self.logits, x)
        return specs

    def init(self, key: jax.Array) -> Params:
        """Draws float32 parameters; the same bits on every mesh."""
        return initialise(self.specs(), key)

    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32) -> Params:
        """Returns an empty cache of `length` slots: keys and values by layer (see `empty_cache` for their shapes),
        segment ids [B, length], and the next free slot.

        The latter is the number 0, not an array, so that the first call is seen to be the first while it is traced.
        """
        c = self.config
        assert c.num_kv_heads and c.head_dim
        if c.experts is not None and c.experts.routing == "expert_choice":
            raise UserError(
                "model.experts.routing='expert_choice': its experts choose among tokens yet to come, so nothing can be "
                "generated; accepted: 'capacity', 'dropless'"
            )
        shape = (batch_size, c.num_kv_heads, length, c.head_dim)
        blocks = [str(i) for i in range(len(self.stack.pattern))]
        return {
            "layers": tuple({name: empty_cache(*shape, dtype) for name in blocks} for _ in range(self.stack.repeats)),
            "segment_ids": jnp.zeros((batch_size, length), jnp.int32),
            "index": 0,
        }

    def for_decoding(self, params: Params, ctx: Context) -> Params:
        """The same parameters as a loop over `apply` with this ctx wants them; with any other they are right, too.

        Every layer's are apart: slicing stacked layers inside of a loop copies all weights for every token. For float32
        on a CPU, kernels are turned, and those of queries, keys and values joined. What has been prepared before stays
        as it is.
        """
        c, decoder = self.config, params["decoder"]
        if isinstance(decoder["layers"], tuple):
            return params
        layers = self.stack.unstacked(decoder["layers"])
        logits = {} if c.tie_embeddings else {"logits": params["logits"]}
        if ctx.one_cpu and ctx.policy.compute == jnp.float32:
            specs = self.stack.specs_of_one(c.d_model)
            layers = tuple(
                {i: {**block, "attention": joined(block["attention"])} for i, block in turned(specs, layer).items()}
                for layer in layers
            )
            logits = {name: turned(self.specs()[name], kernel) for name, kernel in logits.items()}
        return {**params, **logits, "decoder": {**decoder, "layers": layers}}

    def apply(
        self,
        params: Params,
        batch: dict[str, jax.Array],
        *,
        key: jax.Array | None = None,
        train: bool = False,
        cache: Params | None = None,
        want: Sequence[str] = ("logits",),
        ctx: Context | None = None,
    ) -> dict[str, Any]:
        """Computes what `want` names.

        Args:
          params: as `init` or `for_decoding` returns them.
          batch: `decoder_input_tokens` int [B, T]; optionally `decoder_segment_ids` (absent: 1 everywhere) and
            `decoder_positions` (absent: 0 to T-1, continued from the cache).
          key: randomness, for dropout.
          train: whether dropout acts.
          cache: from `init_cache` or an earlier call's outputs["cache"]; this call's tokens are appended to it.
          want: any of "logits" float32 [B, T, V], "hidden" [B, T, D] after the final norm, and "hidden_states",
            [L + 1, B, T, D], embeddings first, the last after the final norm.
          ctx: execution; by default float32, on whatever device the parameters are.

        Returns:
          {name: array for name in want}, "aux" (means over the layers that have them, [1] each, see `Experts`;
          with a pipeline one for every microbatch) and, with a cache, "cache".
        """
        c = self.config
        tokens = batch["decoder_input_tokens"]
        ctx = (ctx or Context()).replace(train=train, key=key)
        ctx, cache = self._with_mask_and_positions(ctx, batch, tokens, cache)
        x = self._embed(params, tokens, ctx)
        keep = "hidden_states" in want
        layers = None if cache is None else cache["layers"]
        x, layers, aux, states = self.stack.apply(params["decoder"]["layers"], x, ctx, layers, keep)
        if c.norm_position == "pre":
            x = call(self.final_norm, params["decoder"]["final_norm"], x)
        outputs: dict[str, Any] = {"aux": aux}
        if "hidden" in want:
            outputs["hidden"] = x
        if states is not None:
            outputs["hidden_states"] = jnp.concatenate([states, x[None]])
        if "logits" in want:
            outputs["logits"] = self.unembed(self.unembedding(params), x, ctx)
        if cache is not None:
            outputs["cache"] = {**cache, "layers": layers, "index": cache["index"] + tokens.shape[1]}
        return outputs

    def unembedding(self, params: Params) -> Params:
        """The part of the parameters that `unembed` reads."""
        name = "token_embedding" if self.config.tie_embeddings else "logits"
        return {name: params[name]}

    def unembed(self, params: Params, hidden: jax.Array, ctx: Context | None = None) -> jax.Array:
        """Maps hidden states [B, T, D] to float32 logits [B, T, V]; `params` may be just `unembedding(params)`."""
        ctx = ctx or Context()
        wide = ctx.policy.softmax
        if self.config.tie_embeddings:
            kernel, pattern = params["token_embedding"]["embedding"], "BTD,VD->BTV"
        else:
            kernel, pattern = params["logits"]["kernel"], self.logits.pattern
        logits = project(hidden, kernel, pattern, wide, one_cpu=ctx.one_cpu)
        return ctx.constrain(logits.astype(wide), "batch length vocab")

    def _embed(self, params: Params, tokens: jax.Array, ctx: Context) -> jax.Array:
        c = self.config
        assert ctx.positions is not None
        x = call(self.token_embedding, params["token_embedding"], tokens, ctx)
        if c.scale_embeddings:
            x = x * math.sqrt(c.d_model)
        if c.positions == "learned":
            x = x + call(self.position_embedding, params["position_embedding"], ctx.positions, ctx)
        elif c.positions == "sinusoidal":
            x = x + sinusoidal(ctx.positions, c.d_model)
        x = dropout(x.astype(ctx.policy.compute), c.dropout_rate, ctx.folded(c.num_layers), ctx.train)
        return ctx.constrain(x, "batch length embed")

    def _with_mask_and_positions(
        self, ctx: Context, batch: dict[str, jax.Array], tokens: jax.Array, cache: Params | None
    ) -> tuple[Context, Params | None]:
        segments = batch.get("decoder_segment_ids")
        positions = batch.get("decoder_positions")
        start: jax.Array | int = 0 if cache is None else cache["index"]
        if positions is None:
            positions = jnp.broadcast_to(start + jnp.arange(tokens.shape[1]), tokens.shape)
        kv_segments = segments
        if cache is not None:
            segments = jnp.ones_like(tokens) if segments is None else segments
            kv_segments = jax.lax.dynamic_update_slice(cache["segment_ids"], segments, (0, start))
            cache = {**cache, "segment_ids": kv_segments}
            if isinstance(start, int) and start == 0:
                kv_segments = segments  # the first call attends to its own keys, see SelfAttention
        allowed = ctx.mask.allowed
        mask = MaskSpec(causal=True, q_segments=segments, kv_segments=kv_segments, offset=start, allowed=allowed)
        return ctx.replace(positions=positions, mask=mask), cache
