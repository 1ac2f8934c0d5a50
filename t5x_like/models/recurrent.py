# SPDX-License-Identifier: Apache-2.0
"""A recurrent encoder and decoder with attention: the baseline before the Transformer.

    encoder input - embed - [recurrent, from both ends] x N ------------ memory
                                          | last state                     |
    decoder input - embed - [recurrent] x N - attention to the memory - tanh(W [attention; state]) - logits

Sutskever et al. 2014 and Bahdanau et al. 2015, with Luong et al.'s 2015 global attention. Packed pairs are apart: the
state begins anew with every segment, at what the encoder's last state of that segment is mapped to.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.models.recurrent import RecurrentConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context, Marks, Memory
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.cached_attention import empty_cache
from t5x_like.models.layers.embeddings import dropout
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.parameters import Params, call, map_specs, record_specs
from t5x_like.models.layers.recurrent import Recurrent, empty_state
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.streams import running
from t5x_like.models.vocabulary import Vocabulary

_ENCODER = 2**20  # what the key is folded with for the encoder


class RecurrentModel(Applies):
    """Encoder, decoder, attention; `config` is resolved."""

    max_length = None
    shares_cache = False  # each beam has a state of its own
    start_token = 0  # what a generated text begins after, as what is trained on does

    def __init__(self, config: RecurrentConfig):
        c = self.config = config
        self.vocabulary = Vocabulary(c)
        self.vocab_size = self.vocabulary.size
        directions = ("forward", "backward") if c.bidirectional else ("forward",)
        one = Recurrent(c.cell, c.d_model // len(directions), c.d_model)
        self.encoder = {str(i): dict.fromkeys(directions, one) for i in range(c.num_layers)}
        self.decoder = {str(i): Recurrent(c.cell, c.d_model, c.d_model) for i in range(c.num_layers)}
        self.first = Linear("BTD,DM->BTM", (c.d_model,), ("embed",), (c.d_model,), ("recurrent",), use_bias=True)
        self.attention = Attention(c.d_model, 1, 1, c.d_model, bias="none", cross=True)
        self.joint = Linear("BTD,DM->BTM", (2 * c.d_model,), ("embed",), (c.d_model,), ("recurrent",))
        self.unembedding, self.unembed = self.vocabulary.unembedding, self.vocabulary.unembed

    def specs(self) -> Params:
        c = self.config
        x: Any = jax.ShapeDtypeStruct((1, 1, c.d_model), jnp.float32)
        seen = jnp.zeros((1, 1), bool)
        ctx = Context(memory=Memory(x))

        def layer(module: Recurrent) -> Params:
            return record_specs(module, x, ctx, empty_state(c.cell, 1, module.width), seen, seen)

        encoder = {i: {way: layer(module) for way, module in ways.items()} for i, ways in self.encoder.items()}
        decoder: Params = {
            "layers": {i: layer(module) for i, module in self.decoder.items()},
            "first": record_specs(self.first, x),
            "attention": record_specs(self.attention, x, ctx, None),
            "joint": record_specs(self.joint, jax.ShapeDtypeStruct((1, 1, 2 * c.d_model), jnp.float32)),
        }
        return {
            **self.vocabulary.specs(),
            "encoder": map_specs(lambda spec: spec.on_streams("encoder"), {"layers": encoder}),
            "decoder": map_specs(lambda spec: spec.on_streams("decoder", "encoder"), decoder),
        }

    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32, encoder_length: int = 0) -> Params:
        """The state of every layer, and room for the memory's keys and values; `length` tokens take none."""
        del length
        c = self.config
        return {
            "layers": tuple(empty_state(c.cell, batch_size, c.d_model) for _ in self.decoder),
            "attention": empty_cache(batch_size, 1, encoder_length, c.d_model, dtype),
            "memory_segments": jnp.zeros((batch_size, encoder_length), jnp.int32),
            "segment_ids": jnp.zeros((batch_size, 1), jnp.int32),
            "index": 0,
        }

    def for_decoding(self, params: Params, ctx: Context) -> Params:
        """The same parameters: there is nothing to prepare."""
        del ctx
        return params

    def encode(self, params: Params, batch: Batch, ctx: Context | None = None) -> Memory:
        """`encoder_*` features to what the decoder looks at, [B, S, D]."""
        ctx = ctx or Context()
        ctx, _ = running(ctx.replace(key=ctx.folded(_ENCODER)), batch, "encoder", causal=False)
        tokens = batch["encoder_input_tokens"]
        segments = ctx.mask.q.segments
        segments = jnp.ones_like(tokens) if segments is None else segments
        x = self._enter(params, tokens, ctx)
        for number, (i, ways) in enumerate(self.encoder.items()):
            outs = []
            for way, module in ways.items():
                turn = (lambda y: y[:, ::-1]) if way == "backward" else (lambda y: y)
                here = turn(segments)
                start = empty_state(self.config.cell, tokens.shape[0], module.width)
                y, _ = call(module, params["encoder"]["layers"][i][way], turn(x), ctx, start, _begins(here), here > 0)
                outs.append(turn(y))
            x = self._dropped(jnp.concatenate(outs, axis=-1), number, ctx)
        return Memory(x, Marks(segments))

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """As `EncoderDecoder.run`, without a pipeline and "hidden_states"; logits are computed from "hidden"."""
        if ctx.pipeline is not None:
            raise UserError("mesh.pipe: a recurrent model has no stages; accepted: 1")
        tokens, p = batch["decoder_input_tokens"], params["decoder"]
        segments = batch.get("decoder_segment_ids", jnp.ones_like(tokens))
        fresh, first = _begins(segments), None
        if "encoder_input_tokens" in batch:
            memory = self.encode(params, batch, ctx)
            first = self._first_states(p, memory, segments, ctx)
            if cache is not None:
                cache = {**cache, "memory_segments": memory.marks.segments}
        else:
            assert cache is not None
            memory, fresh = Memory(None, Marks(cache["memory_segments"])), jnp.zeros_like(fresh)
        mask = ctx.mask.replace(q=Marks(segments), offset=0 if cache is None else cache["index"], allowed=None)
        ctx = ctx.replace(memory=memory, mask=mask)
        x, states = self._enter(params, tokens, ctx), []
        for number, (i, module) in enumerate(self.decoder.items()):
            empty = empty_state(self.config.cell, tokens.shape[0], module.width)
            start = empty if cache is None else cache["layers"][number]
            x, state = call(module, p["layers"][i], x, ctx, start, fresh, segments > 0, first)
            x = self._dropped(x, number, ctx)
            states.append(state)
        seen, attended = call(self.attention, p["attention"], x, ctx, None if cache is None else cache["attention"])
        hidden = jnp.tanh(call(self.joint, p["joint"], jnp.concatenate([seen, x], axis=-1), ctx))
        hidden = ctx.constrain(hidden, "batch length embed")
        outputs: Outputs = {"hidden": hidden, "aux": {}}
        if "logits" in want:
            outputs["logits"] = self.unembed(params, hidden, ctx)
        if cache is not None:
            index = cache["index"] + tokens.shape[1]
            outputs["cache"] = {**cache, "layers": tuple(states), "attention": attended, "index": index}
        return {name: outputs[name] for name in (*want, "aux", "cache") if name in outputs}

    def _enter(self, params: Params, tokens: jax.Array, ctx: Context) -> jax.Array:
        x = self.vocabulary.embed(params, tokens, ctx) * math.sqrt(self.config.d_model)
        return self._dropped(x.astype(ctx.policy.compute), self.config.num_layers, ctx)

    def _dropped(self, x: jax.Array, number: int, ctx: Context) -> jax.Array:
        x = dropout(x, self.config.dropout_rate, ctx.folded(number), ctx.train)
        return ctx.constrain(x, "batch length embed")

    def _first_states(self, p: Params, memory: Memory, segments: jax.Array, ctx: Context) -> tuple[jax.Array, ...]:
        """The state that the decoder begins each segment with, told at all of its tokens, [B, T, D] each."""
        of = memory.marks.segments
        assert of is not None and memory.values is not None
        last = (of > 0) & (jnp.pad(of, ((0, 0), (0, 1)))[:, 1:] != of)
        found = (segments[:, :, None] == of[:, None, :]) & last[:, None, :]
        ends = jnp.einsum("BTS,BSD->BTD", found.astype(memory.values.dtype), memory.values)
        h = jnp.tanh(call(self.first, p["first"], ends, ctx))
        return (h, jnp.zeros_like(h)) if self.config.cell == "lstm" else (h,)


def _begins(segments: jax.Array) -> jax.Array:
    """Tokens that are the first of their segment, bool [B, T]."""
    return segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]


build = RecurrentModel
