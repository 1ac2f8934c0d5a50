# SPDX-License-Identifier: Apache-2.0
"""What all families that write text share: a vocabulary, and a tower of causal blocks that may look at a memory."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import TransformerConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.experts import Aux
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.streams import running
from t5x_like.models.tower import Tower
from t5x_like.models.vocabulary import Vocabulary


class Decoder(Applies):
    """Token embeddings, a tower, logits, as `Decodes` asks; a family says with `apply` what comes before."""

    def __init__(self, config: TransformerConfig, memory: str | None = None):
        """`memory` names the stream that cross-attention looks at; None: there is no cross-attention."""
        c = self.config = config
        self.decoder = Tower(c, c.num_layers, "decoder", causal=True, memory=memory)
        self.vocabulary = Vocabulary(c)
        self.vocab_size = self.vocabulary.size
        self.max_length = c.max_length if c.positions == "learned" else None
        self.shares_cache = memory is not None or c.attention is None or c.attention.keeps_keys  # a slot is a token
        self.aux_losses = _router_losses(c)

    def specs(self) -> Params:
        return {**self.vocabulary.specs(), "decoder": {**self.decoder.entry_specs(), **self.decoder.specs()}}

    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32, encoder_length: int = 0) -> Params:
        """An empty cache of `length` slots, and of `encoder_length` for a memory, if any; see `Tower.init_cache`."""
        return self.decoder.init_cache(batch_size, length, dtype, encoder_length)

    def for_decoding(self, params: Params, ctx: Context) -> Params:
        """The same parameters as a loop over `apply` with this ctx wants them; with any other they are right, too."""
        decoder = self.decoder.for_decoding(params["decoder"], ctx)
        return {**params, **self.vocabulary.for_decoding(params, ctx), "decoder": decoder}

    def unembedding(self, params: Params) -> Params:
        """The part of the parameters that `unembed` reads."""
        return self.vocabulary.unembedding(params)

    def unembed(self, params: Params, hidden: jax.Array, ctx: Context | None = None) -> jax.Array:
        """Maps hidden states [B, T, D] to float32 logits [B, T, V]; `params` may be just `unembedding(params)`."""
        if self.config.scale_logits:
            hidden = hidden * self.config.d_model**-0.5
        return self.vocabulary.unembed(params, hidden, ctx)

    def logits(self, params: Params, hidden: jax.Array, batch: Batch, ctx: Context) -> jax.Array:
        """What `apply` calls so; `batch` is what `hidden` was made of."""
        return self.unembed(params, hidden, ctx)

    def entry(self, params: Params) -> Params:
        """Where the parameters of `Tower.entry_specs` lie."""
        return params["decoder"]

    def embed(self, params: Params, batch: Batch, ctx: Context) -> jax.Array:
        """Embeddings of a batch's tokens, [B, T, D]."""
        return self.vocabulary.embed(params, batch["decoder_input_tokens"], ctx)

    def decode(
        self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str], aux: Aux
    ) -> Outputs:
        """The decoder's half of `apply`; `aux` is what an encoder had to say."""
        tokens = batch["decoder_input_tokens"]
        ctx, cache = running(ctx, batch, "decoder", causal=True, cache=cache)
        x = self.embed(params, batch, ctx)
        x = self.decoder.enter(x, ctx, self.entry(params))
        layers = None if cache is None else cache["layers"]
        x, layers, own, kept = self.decoder.apply(params["decoder"], x, ctx, layers, want)
        outputs: Outputs = {"hidden": x, **kept}
        outputs["aux"] = {name: value + aux.get(name, 0.0) for name, value in own.items()}
        if "logits" in want:
            outputs["logits"] = self.logits(params, x, batch, ctx)
        if cache is not None:
            outputs["cache"] = {**cache, "layers": layers, "index": cache["index"] + tokens.shape[1]}
        return {name: outputs[name] for name in (*want, "aux", "cache") if name in outputs}


def _router_losses(c: TransformerConfig) -> dict[str, float]:
    if c.experts is None:
        return {}
    coefficients = {name: getattr(c.experts, name) for name in ("load_balance_loss", "router_z_loss")}
    return {name: c.expert_layers * value for name, value in coefficients.items() if value}
