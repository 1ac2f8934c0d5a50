# SPDX-License-Identifier: Apache-2.0
"""What runs one stream of a Transformer: positions, a stack of blocks, and the norm after it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import TransformerConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.biases import Bias, LinearBias, RelativeBias, slopes
from t5x_like.models.layers.block import Block
from t5x_like.models.layers.embeddings import Embedding, dropout
from t5x_like.models.layers.kinds import shared_specs
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, call, map_specs, record_specs
from t5x_like.models.layers.positions import sinusoidal
from t5x_like.models.stack import Stack


class Tower:
    """Layers over one stream."""

    def __init__(
        self,
        config: TransformerConfig,
        layers: int,
        stream: str = "decoder",
        *,
        causal: bool,
        memory: str | None = None,
        shared: bool = False,
        entry_width: int | None = None,
    ):
        """`memory` names the stream that cross-attention, if any, looks at; `shared` is as `Stack` has it;
        `entry_width` is that of what `enter` makes, by default D."""
        c = self.config = config
        assert c.max_length
        self.layers, self.stream, self.memory, self.causal = layers, stream, memory, causal
        self.attention = c.attention if stream == c.streams[0] else None
        cross = memory is not None
        pattern = self._pattern(layers, cross)
        self.stack = Stack(pattern, layers // len(pattern), causal, c.memory_width if cross else None, shared)
        self.entry_width = entry_width or c.d_model
        self.positions = Embedding(c.max_length + c.position_offset, self.entry_width, "positions", 0.02)
        self.entry_norm = self.final_norm = Norm(c.norm, c.norm_epsilon, c.use_bias, around_one=c.norm_around_one)

    def _pattern(self, layers: int, cross: bool) -> tuple[Block, ...]:
        """As many blocks as it takes until experts, windows and kinds of attention repeat; all, where that does not
        divide the layers."""
        c, branches = self.config, (3 if cross and not self.config.cross_gated else 2) * layers
        every = 1 if c.experts is None else c.experts.every
        kinds = [None if self.attention is None else self.attention.at(number, layers) for number in range(layers)]
        turns = next(n for n in range(1, layers + 1) if kinds == (kinds[:n] * layers)[:layers])
        period = math.lcm(every, c.global_every or 1, turns, c.cross_every if cross else 1)

        def block(number: int) -> Block:
            experts = c.experts is not None and number % every == c.experts.at
            sees_all = c.global_every is not None and (number + 1) % c.global_every == 0
            return Block(c, cross and number % c.cross_every == 0, experts, sees_all, branches, kinds[number])

        return tuple(block(number) for number in range(layers if layers % period else period))

    def specs(self) -> Params:
        """{"layers", and "final_norm" and "relative_bias" where there are such}."""
        c = self.config
        specs: Params = {"layers": self.stack.specs(c.d_model)}
        if c.norm_position != "post" and c.final_norm:
            specs["final_norm"] = record_specs(self.final_norm, jax.ShapeDtypeStruct((1, 1, c.d_model), jnp.float32))
        if c.positions == "relative":
            shape, axes = (c.relative_buckets, c.num_heads), ("buckets", "heads")
            table = ParamSpec(shape, axes, ("buckets",), ("heads",), Normal(c.d_model**-0.5), lookup=True)
            specs["relative_bias"] = {"table": table}
        specs |= shared_specs(self.attention, c)
        return self._in_stream(specs)

    def entry_specs(self) -> Params:
        """{"position_embedding", "embedding_norm"} where there are such; a family says where they lie."""
        specs: Params = {}
        if self.config.positions == "learned":
            specs["position_embedding"] = record_specs(self.positions, jax.ShapeDtypeStruct((1, 1), jnp.int32))
        if self.config.embedding_norm:
            x = jax.ShapeDtypeStruct((1, 1, self.entry_width), jnp.float32)
            specs["embedding_norm"] = record_specs(self.entry_norm, x)
        return self._in_stream(specs)

    def _in_stream(self, specs: Params) -> Params:
        return map_specs(lambda spec: spec.on_streams(self.stream, self.memory or "memory"), specs)

    def enter(self, x: jax.Array, ctx: Context, params: Params) -> jax.Array:
        """Embedded tokens [B, T, D] to what enters the first block; among the params are those of `entry_specs`."""
        c = self.config
        assert ctx.positions is not None
        if c.scale_embeddings:
            x = x * math.sqrt(c.d_model)
        if c.positions == "learned":
            x = x + call(self.positions, params["position_embedding"], ctx.positions + c.position_offset, ctx)
        elif c.positions == "sinusoidal":
            x = x + sinusoidal(ctx.positions, c.d_model, c.sines_first)
        if c.embedding_norm:
            x = call(self.entry_norm, params["embedding_norm"], x)
        x = dropout(x.astype(ctx.policy.compute), c.dropout_rate, ctx.folded(self.layers), ctx.train)
        return ctx.constrain(x, "batch length embed")

    def apply(
        self, params: Params, x: jax.Array, ctx: Context, cache: Any = None, keep: Sequence[str] = ()
    ) -> tuple[jax.Array, Any, dict[str, jax.Array], dict[str, jax.Array]]:
        """Runs x through all layers and the norm after them; the rest is as `Stack.apply` has it.

        The "hidden_states" that are kept have one entry more, the last after the final norm. Raises UserError:
        "attentions" of a kind that has no weight for every key."""
        if self.attention is not None and "attentions" in keep:
            raise UserError(f"attentions: model.attention.kind={self.attention.kind!r} has none; accepted: None")
        ctx = ctx.replace(bias=self._bias(params), shared=params)
        x, cache, aux, kept = self.stack.apply(params["layers"], x, ctx, cache, keep)
        if "final_norm" in params:
            x = call(self.final_norm, params["final_norm"], x)
        if "hidden_states" in kept:
            kept["hidden_states"] = jnp.concatenate([kept["hidden_states"], x[None]])
        return x, cache, aux, kept

    def _bias(self, params: Params) -> Bias | None:
        c = self.config
        if c.positions == "relative":
            return RelativeBias(params["relative_bias"]["table"], not self.causal, c.relative_max_distance)
        return LinearBias(jnp.asarray(slopes(c.num_heads))) if c.positions == "alibi" else None

    def init_cache(self, batch_size: int, length: int, dtype: Any, memory_length: int = 0) -> Params:
        """An empty cache of `length` slots: keys and values by layer (see `empty_cache` for their shapes), segment ids
        [B, length] (and positions, where a bias or a window asks for them), and the next free slot: the number 0, no
        array, so that the first call is seen to be the first while it is traced."""
        c = self.config
        if c.experts is not None and c.experts.routing == "expert_choice":
            raise UserError(
                "model.experts.routing='expert_choice': its experts choose among tokens yet to come, so nothing can be "
                "generated; accepted: 'capacity', 'dropless'"
            )

        def one() -> Params:
            blocks = enumerate(self.stack.pattern)
            return {str(i): block.empty_cache(batch_size, length, memory_length, dtype) for i, block in blocks}

        slots = jnp.zeros((batch_size, length), jnp.int32)
        by_position = c.positions in ("relative", "alibi") or c.window is not None or self.attention is not None
        positions = {"positions": slots} if by_position else {}
        layers = tuple(one() for _ in range(self.stack.repeats))
        return {"layers": layers, "segment_ids": slots, **positions, "index": 0}

    def for_decoding(self, params: Params, ctx: Context) -> Params:
        """See `Stack.for_decoding`."""
        return {**params, "layers": self.stack.for_decoding(params["layers"], self.config.d_model, ctx)}
