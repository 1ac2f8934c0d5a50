# SPDX-License-Identifier: Apache-2.0
"""Tokens to vectors, and hidden states to logits."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import ModelConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.embeddings import Embedding
from t5x_like.models.layers.linear import Linear, project, turned
from t5x_like.models.layers.parameters import Params, ParamSpec, map_specs, record_specs


class Vocabulary:
    """The table of a model's V tokens, and the product with it, or with a matrix of its own, that gives logits."""

    def __init__(self, config: ModelConfig, width: int | None = None):
        """`width` is that of the hidden states, D unless it says otherwise."""
        assert config.vocab_size
        self.size, self.tied, width = config.vocab_size, config.tie_embeddings, width or config.d_model
        # Logits of a unit-variance hidden state through a tied table start with variance 1 at every width.
        stddev = config.embedding_stddev or 1 / math.sqrt(config.d_model)
        self.table = Embedding(self.size, config.d_model, "vocab", stddev)
        self.logits = Linear("BTD,DV->BTV", (width,), ("embed",), (self.size,), ("vocab",), config.logits_bias)
        self._width, self._soft_cap = width, getattr(config, "logits_soft_cap", None)

    def specs(self, stream: str = "decoder", head: bool = True) -> Params:
        """Of the tables; `stream` is the one whose hidden states get logits; without a `head` there are none."""

        def of_stream(spec: ParamSpec) -> ParamSpec:  # a tied table is multiplied, and what is looked up is no work
            return dataclasses.replace(spec, stream=stream, lookup=spec.lookup and not (self.tied and head))

        specs = {"token_embedding": record_specs(self.table, jax.ShapeDtypeStruct((1, 1), jnp.int32))}
        logits = record_specs(self.logits, jax.ShapeDtypeStruct((1, 1, self._width), jnp.float32))
        if self.tied:
            del logits["kernel"]
        if logits and head:
            specs["logits"] = logits
        return map_specs(of_stream, specs)

    def embed(self, params: Params, tokens: jax.Array, ctx: Context) -> jax.Array:
        """int [B, T] to [B, T, D]."""
        return self.table.apply({"params": params["token_embedding"]}, tokens, ctx)  # type: ignore[return-value]

    def unembedding(self, params: Params) -> Params:
        """The part of the parameters that `unembed` reads."""
        names = (["token_embedding"] if self.tied else []) + (["logits"] if "logits" in params else [])
        return {name: params[name] for name in names}

    def unembed(self, params: Params, hidden: jax.Array, ctx: Context | None = None) -> jax.Array:
        """Maps hidden states [B, T, D] to float32 logits [B, T, V]; `params` may be just `unembedding(params)`."""
        ctx = ctx or Context()
        wide = ctx.policy.softmax
        if self.tied:
            kernel, pattern = params["token_embedding"]["embedding"], "BTD,VD->BTV"
        else:
            kernel, pattern = params["logits"]["kernel"], self.logits.pattern
        logits = project(hidden, kernel, pattern, wide, one_cpu=ctx.one_cpu).astype(wide)
        if self.logits.use_bias:
            logits = logits + params["logits"]["bias"].astype(wide)
        logits = ctx.constrain(logits, "batch length vocab")
        return logits if self._soft_cap is None else self._soft_cap * jnp.tanh(logits / self._soft_cap)

    def for_decoding(self, params: Params, ctx: Context) -> dict[str, Any]:
        """The tables as a loop through a cache wants them, see `Stack.for_decoding`."""
        if self.tied or not (ctx.one_cpu and ctx.policy.compute == jnp.float32):
            return {}
        return {"logits": turned(self.specs()["logits"], params["logits"])}
