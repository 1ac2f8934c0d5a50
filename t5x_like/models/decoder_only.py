# SPDX-License-Identifier: Apache-2.0
"""The decoder-only family: GPT (Radford et al. 2018, 2019), LLaMA (Touvron et al. 2023) and Mixtral by their fields.

decoder input - embed - [causal self-attention, mlp] x L - norm - logits

fine-tuned (Radford et al. 2018, section 3.2): the last token's state after the norm - logits of classes

head "scalar": every token's state after the norm - a number: a reward, or the value of what comes (Ouyang et al. 2022);
with `critic` the state is that of a second network beside the first, whose parameters lie under "critic"
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from t5x_like.config.models.base import DecoderConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.decoder import Decoder
from t5x_like.models.layers.embeddings import dropout
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.parameters import Params, call, map_specs, record_specs
from t5x_like.models.model import Batch, Outputs


class DecoderOnly(Decoder):
    """A decoder by itself, perhaps with a head. Its learned positions, if any, lie at the top of the tree."""

    config: DecoderConfig

    def __init__(self, config: DecoderConfig):
        super().__init__(config)
        width, classes = ((config.d_model,), ("embed",)), ((config.num_labels or 2,), ("classes",))
        pattern = "BTD,DN->BTN" if config.head == "scalar" else "BD,DN->BN"
        self.labels = Linear(pattern, *width, *classes)

    def specs(self) -> Params:
        c = self.config
        one = jax.ShapeDtypeStruct((1,) * (1 + (c.head == "scalar")) + (c.d_model,), jnp.float32)
        specs, numbers = self._network(c.lm_head), self._network(False) if c.critic else {}
        if c.head is not None:
            (numbers or specs)["labels"] = map_specs(
                lambda spec: spec.on_streams("decoder"), record_specs(self.labels, one)
            )
        return {**specs, "critic": numbers} if numbers else specs

    def _network(self, head: bool) -> Params:
        return {**self.vocabulary.specs(head=head), **self.decoder.entry_specs(), "decoder": self.decoder.specs()}

    def unembedding(self, params: Params) -> Params:
        if not self.config.lm_head:
            raise UserError("model.lm_head=false: there are no logits over the vocabulary")
        return super().unembedding(params)

    def entry(self, params: Params) -> Params:
        return params

    def logits(self, params: Params, hidden: jax.Array, batch: Batch, ctx: Context) -> jax.Array:
        """Over the vocabulary; of a model with a head those of classes, float32 [B, N], by each row's last token that
        is no padding: a row holds one text."""
        c = self.config
        if c.head != "classification":
            return super().logits(params, hidden, batch, ctx)
        real = batch.get("decoder_segment_ids", jnp.ones(hidden.shape[:2], jnp.int32)) > 0
        places = jnp.arange(hidden.shape[1])
        last = places == jnp.where(real, places, -1).max(1, keepdims=True)
        x = jnp.where(last[..., None], hidden, 0).sum(1)  # selected: a gather from a sharded length would gather it
        x = dropout(x, c.dropout_rate, ctx.folded(c.num_layers + 1), ctx.train)
        return call(self.labels, params["labels"], x, ctx).astype(ctx.policy.softmax)

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """Reads `decoder_input_tokens` int [B, T], and `decoder_segment_ids`, `decoder_positions` and
        `decoder_causal_attention` where they are given, see `streams.running`.

        `want` may name "logits" float32 [B, T, V], or [B, N] of a model with a head, "hidden" [B, T, D] after the final
        norm, "hidden_states" [L + 1, B, T, D], embeddings first, the last after the final norm, and, without a cache,
        the weights of "attentions" [L, B, H, T, T], 0 for what attends to nothing; of a head "scalar" "values" float32
        [B, T].
        """
        if "values" not in want:
            return self.decode(params, batch, ctx, cache, want, {})
        if self.config.critic:
            outputs, params = self.decode(params, batch, ctx, cache, want, {}), params["critic"]
            ctx = ctx.replace(key=ctx.folded(self.config.num_layers + 2))
            seen = self.decode(params, batch, ctx, None, ["hidden"], outputs["aux"])
            outputs["aux"] = seen["aux"]
        else:
            outputs = seen = self.decode(params, batch, ctx, cache, [*want, "hidden"], {})
        numbers = call(self.labels, params["labels"], seen["hidden"], ctx)
        return outputs | {"values": numbers[..., 0].astype(ctx.policy.softmax)}


build = DecoderOnly
