# SPDX-License-Identifier: Apache-2.0
"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019), DistilBERT (Sanh et al. 2019), ALBERT (Lan et al. 2020) and
ELECTRA (Clark et al. 2020).

token + position + type - norm - [map] - [norm(x + self-attention), norm(x + mlp)] x L - hidden
    hidden                - act(dense), norm, the table of tokens, bias          - logits of masked tokens
    hidden                - act(dense), a vector                                 - logits of replaced tokens
    hidden of [CLS]       - tanh(dense)                                          - pooled - next sentence

fine-tuned (sections 4.1 to 4.3 and 5.3): pooled - logits of classes; hidden - logits of tags; hidden - start and end
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from t5x_like.config.models.bert import BertConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.embeddings import Embedding, dropout
from t5x_like.models.layers.feed_forward import ACTIVATIONS
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Constant, Params, ParamSpec, call, map_specs, record_specs
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.streams import running
from t5x_like.models.tower import Tower
from t5x_like.models.vocabulary import Vocabulary


class Bert(Applies):
    """An encoder, and heads on what it makes of its input; `config` is resolved."""

    def __init__(self, config: BertConfig):
        c = self.config = config
        narrow = c.embedding_width or c.d_model
        stream, table, head = ((c.d_model,), ("embed",)), ((narrow,), ("head",)), ((c.d_model,), ("head",))
        self.encoder = Tower(c, c.num_layers, "encoder", causal=False, shared=c.shared_layers, entry_width=narrow)
        self.vocabulary = Vocabulary(dataclasses.replace(c, d_model=narrow))
        self.vocab_size = self.vocabulary.size
        self.types = Embedding(c.token_types, narrow, "types", 0.02)
        self.map = Linear("BTE,ED->BTD", *table, *stream, use_bias=True)
        self.dense = Linear("BTD,DE->BTE", *stream, *table, use_bias=True)
        self.norm = Norm(c.norm, c.norm_epsilon, c.use_bias, axis="head")
        self.judge = Linear("BTD,DE->BTE", *stream, *head, use_bias=True)
        self.replaced = Linear("BTE,EN->BTN", *head, (1,), ("classes",), use_bias=True)
        self.pooler = Linear("BD,DE->BE", *stream, *head, use_bias=True)
        self.next = Linear("BE,EN->BN", *head, (2,), ("classes",), use_bias=True)
        rows, inner = ("B", "head") if c.head == "classification" else ("BT", "embed")
        labels = (c.num_labels or 2,), ("classes",)
        self.labels = Linear(f"{rows}D,DN->{rows}N", (c.d_model,), (inner,), *labels, use_bias=True)

    def specs(self) -> Params:
        c, tokens = self.config, jax.ShapeDtypeStruct((1, 1), jnp.int32)
        states = jax.ShapeDtypeStruct((1, 1, c.d_model), jnp.float32)
        narrow = jax.ShapeDtypeStruct((1, 1, c.embedding_width or c.d_model), jnp.float32)
        one = jax.ShapeDtypeStruct((1, c.d_model), jnp.float32)
        head = {"dense": record_specs(self.dense, states), "norm": record_specs(self.norm, narrow)}
        head["logits"] = {"bias": ParamSpec((self.vocab_size,), ("vocab",), init=Constant(0.0))}
        specs: Params = {"head": head} if c.lm_head else {}
        if c.replaced_tokens:
            judge, replaced = record_specs(self.judge, states), record_specs(self.replaced, states)
            specs["replaced_tokens"] = {"dense": judge, "logits": replaced}
        for name, there, module, x in (
            ("type_embedding", c.token_types, self.types, tokens),
            ("embedding_map", c.embedding_width, self.map, narrow),
            ("pooler", c.pooler, self.pooler, one),
            ("next_sentence", c.next_sentence, self.next, one),
            ("labels", c.head, self.labels, one if c.head == "classification" else states),
        ):
            specs |= {name: record_specs(module, x)} if there else {}
        specs = map_specs(lambda spec: spec.on_streams("encoder"), specs)
        return {
            **self.vocabulary.specs("encoder", c.lm_head),
            **specs,
            "encoder": {**self.encoder.entry_specs(), **self.encoder.specs()},
        }

    def unembedding(self, params: Params) -> Params:
        """What `unembed` reads."""
        if not self.config.lm_head:
            raise UserError("model.lm_head=false: there are no logits over the vocabulary")
        return {**self.vocabulary.unembedding(params), "head": params["head"]}

    def unembed(self, params: Params, hidden: jax.Array, ctx: Context | None = None) -> jax.Array:
        """Maps hidden states [B, T, D] to float32 logits [B, T, V]; `params` may be just `unembedding(params)`."""
        ctx, head = ctx or Context(), self.unembedding(params)["head"]
        x = ACTIVATIONS[self.config.activation](call(self.dense, head["dense"], hidden, ctx))
        logits = self.vocabulary.unembed(params, call(self.norm, head["norm"], x), ctx)
        return logits + head["logits"]["bias"].astype(logits.dtype)

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """Reads `encoder_input_tokens` int [B, T], and `encoder_segment_ids`, `encoder_positions` and
        `encoder_token_types`, 0 everywhere where absent.

        `want` may name "logits" float32 [B, T, V], "hidden" [B, T, D], "hidden_states" [L + 1, B, T, D], embeddings
        first, "attentions" [L, B, H, T, T], "pooled" [B, D], "next_sentence" float32 [B, 2] and "replaced_tokens"
        float32 [B, T]. Of a model with a head "logits" are the head's: [B, N] of classes, [B, T, N] of tags, [B, T, 2]
        of a span's start and end.
        """
        assert cache is None
        c = self.config
        ctx, _ = running(ctx, batch, "encoder", causal=False)
        tokens = batch["encoder_input_tokens"]
        x = self.vocabulary.embed(params, tokens, ctx)
        if c.token_types:
            types = batch.get("encoder_token_types", jnp.zeros_like(tokens))  # RoBERTa has one, pairs two
            x = x + call(self.types, params["type_embedding"], jnp.minimum(types, c.token_types - 1))
        x = self.encoder.enter(x, ctx, params["encoder"])
        if c.embedding_width:
            x = ctx.constrain(call(self.map, params["embedding_map"], x, ctx), "batch length embed")
        x, _, aux, kept = self.encoder.apply(params["encoder"], x, ctx, None, want)
        outputs: Outputs = {"hidden": x, "aux": aux, **kept}
        if "logits" in want:
            outputs["logits"] = (self.unembed if c.head is None else self._labels)(params, x, ctx)
        if c.replaced_tokens and "replaced_tokens" in want:
            head = params["replaced_tokens"]
            h = ACTIVATIONS[c.activation](call(self.judge, head["dense"], x, ctx))
            logits = call(self.replaced, head["logits"], h, ctx)[..., 0]
            outputs["replaced_tokens"] = logits.astype(ctx.policy.softmax)
        if c.pooler and {"pooled", "next_sentence"} & set(want):
            outputs["pooled"] = self._pooled(params, x[:, 0], ctx)
        if c.next_sentence and "next_sentence" in want:
            logits = call(self.next, params["next_sentence"], outputs["pooled"], ctx)
            outputs["next_sentence"] = logits.astype(ctx.policy.softmax)
        return {name: outputs[name] for name in (*want, "aux")}

    def _pooled(self, params: Params, first: jax.Array, ctx: Context) -> jax.Array:
        kind = self.config.pooler_activation
        activation = jnp.tanh if kind == "tanh" else ACTIVATIONS[kind]
        return activation(call(self.pooler, params["pooler"], first, ctx))

    def _labels(self, params: Params, x: jax.Array, ctx: Context) -> jax.Array:
        """Hidden states [B, T, D] to the head's logits."""
        c = self.config
        if c.head == "classification":
            rate = c.dropout_rate if c.drops_before_pooler else 0.0
            x = self._pooled(params, dropout(x[:, 0], rate, ctx.folded(c.num_layers + 1), ctx.train), ctx)
        x = dropout(x, 0.0 if c.head == "span" else c.dropout_rate, ctx.folded(c.num_layers + 2), ctx.train)
        return call(self.labels, params["labels"], x, ctx).astype(ctx.policy.softmax)


build = Bert
