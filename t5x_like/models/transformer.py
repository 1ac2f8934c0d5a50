# SPDX-License-Identifier: Apache-2.0
"""The Transformer (Vaswani et al. 2017): an encoder, and a decoder that looks at what it makes of its input.

encoder input - embed - [self-attention, mlp] x N  --------------- memory
                                                                      |
decoder input - embed - [causal self-attention, cross-attention, mlp] x N - logits
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from t5x_like.config.models.transformer import EncoderDecoderConfig
from t5x_like.models.context import Context, Marks, Memory
from t5x_like.models.decoder import Decoder
from t5x_like.models.layers.experts import Aux
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Batch, Outputs
from t5x_like.models.streams import running
from t5x_like.models.tower import Tower

_ENCODER = 2**20  # what the key is folded with for the encoder; layers of the decoder fold their own numbers into it


class EncoderDecoder(Decoder):
    """Two towers and one vocabulary."""

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__(config, memory="encoder")
        self.start_token = config.decoder_start
        self.encoder = Tower(config, config.encoder_layers, "encoder", causal=False)

    def specs(self) -> Params:
        return {**super().specs(), "encoder": {**self.encoder.entry_specs(), **self.encoder.specs()}}

    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32, encoder_length: int = 0) -> Params:
        """As `Decoder.init_cache`. The first call through it must have encoder features, which fill the memory; later
        ones have none."""
        cache = super().init_cache(batch_size, length, dtype, encoder_length)
        return {**cache, "memory_segments": jnp.zeros((batch_size, encoder_length), jnp.int32)}

    def encode(self, params: Params, batch: Batch, ctx: Context | None = None) -> Memory:
        """`encoder_*` features to what the decoder looks at, [B, S, D]."""
        return self._encode(params, batch, ctx or Context())[0]

    def _encode(
        self, params: Params, batch: Batch, ctx: Context, keep: Sequence[str] = ()
    ) -> tuple[Memory, Aux, dict[str, Any]]:
        ctx, _ = running(ctx.replace(key=ctx.folded(_ENCODER)), batch, "encoder", causal=False)
        x = self.vocabulary.embed(params, batch["encoder_input_tokens"], ctx)
        x = self.encoder.enter(x, ctx, params["encoder"])
        x, _, aux, kept = self.encoder.apply(params["encoder"], x, ctx, None, keep)
        return Memory(x, Marks(ctx.mask.q.segments)), aux, {f"encoder_{name}": value for name, value in kept.items()}

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """As `DecoderOnly.run`, with `encoder_input_tokens` int [B, S], `encoder_segment_ids`, `encoder_positions`.

        A row may hold several pairs: a decoder token sees the encoder tokens of its own segment. "hidden_states" and
        "attentions" are the decoder's; there are "cross_attentions" [N, B, H, T, S], too, and those that begin with
        "encoder_".
        """
        aux: Aux = {}
        kept: dict[str, Any] = {}
        if "encoder_input_tokens" not in batch:
            assert cache is not None
            memory = Memory(None, Marks(cache["memory_segments"]))
        else:
            keep = [name.removeprefix("encoder_") for name in want if name.startswith("encoder_")]
            memory, aux, kept = self._encode(params, batch, ctx, keep)
            if cache is not None:
                segments = memory.marks.segments
                segments = jnp.ones_like(cache["memory_segments"]) if segments is None else segments
                memory, cache = memory.replace(marks=Marks(segments)), {**cache, "memory_segments": segments}
        return kept | self.decode(params, batch, ctx.replace(memory=memory), cache, want, aux)


build = EncoderDecoder
