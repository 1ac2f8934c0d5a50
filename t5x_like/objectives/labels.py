# SPDX-License-Identifier: Apache-2.0
"""What a head is fine-tuned for: classes of texts, tags of words, spans that are answers."""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import LanguageModel, Model, able
from t5x_like.models.streams import real
from t5x_like.objectives.cross_entropy import TokenCrossEntropy, of_model, over_vocabulary
from t5x_like.objectives.task import Batch, Scale, Sums


class Labels(TokenCrossEntropy):
    """Cross-entropy of `labels`: int [B], or [B, 2] where a span starts and ends, whose two losses are averaged and
    which is right where both are; one label is a number, float [B], and its loss the square of the distance. Tags are
    `encoder_target_tokens` [B, T], by `encoder_loss_weights`.

    With `auxiliary_lm` a decoder's "objective" is L2 + lambda L1 of Radford et al. 2018, equation 5, where L1 is each
    text's mean over its tokens, "lm_loss", so that texts count alike. A router's losses are in it, too.
    """

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        kind, stream = self.config.kind, model.config.streams[-1]
        name = "encoder_target_tokens" if kind == "tagging" else "labels"
        if name not in batch or batch[name].ndim != (1 if kind == "classification" else 2):
            raise UserError(f"objective.kind: {kind!r} needs data that has its labels; accepted: data.kind={kind!r}")
        auxiliary = getattr(self.config, "auxiliary_lm", 0.0)
        two_heads = "teacher_logits" in batch and getattr(model.config, "distillation_token", False)
        heads = ["class_logits", "distillation_logits"] if two_heads else ["logits"]
        want = [*dict.fromkeys([*heads, *["hidden"] * (auxiliary > 0), *self._wants(batch)])]
        outputs = model.apply(params, batch, key=key, train=ctx.train, want=want, ctx=ctx)
        logits, labels, said = outputs[heads[0]], batch[name], self._said(batch)
        said |= {head: outputs[head] for head in heads[1:]}
        there = real(batch, stream)
        weights = there.any(1).astype(jnp.float32)  # 0 of what fills a last batch up
        if kind == "span":  # a distribution over the row's tokens
            never = jnp.finfo(logits.dtype).min / 2
            logits, said = jax.tree.map(lambda x: jnp.where(there[..., None], x, never).swapaxes(1, 2), (logits, said))
        smoothing = getattr(self.config, "label_smoothing", 0.0) if ctx.train else 0.0
        if kind == "classification" and logits.shape[-1] == 1:
            square = jnp.square(logits[:, 0] - labels)
            values, smoothing = {"loss": square, "objective": self.hard * square}, 0.0
        else:
            rest = {"targets": labels, **said}
            values = self._by_token(logits, rest, label_smoothing=smoothing, one_cpu=ctx.one_cpu)
        if not (smoothing or (self.distils and ctx.train)):
            values.pop("objective")
        if kind == "span":
            values = {name: value.min(1) if name == "accuracy" else value.mean(1) for name, value in values.items()}
        if kind == "tagging":
            by_token = batch.get("encoder_loss_weights", there.astype(jnp.float32))
            values, weights = {name: (value * by_token).sum(1) for name, value in values.items()}, by_token.sum(1)
        else:
            values = {name: value * weights for name, value in values.items()}
        for name, (value, factor) in self._by_row(outputs, batch).items():
            values[name] = value * weights
            values["objective"] = values["objective"] + factor * values[name]
        if auxiliary or model.aux_losses:
            aux, more = of_model(model, outputs["aux"], weights)
            values |= aux
            if auxiliary:
                value, values["lm_loss"] = self._of_tokens(model, params, outputs["hidden"], batch, weights, ctx, scale)
                more = more + self.hard * auxiliary * value
            if ctx.train:
                values["objective"] = values.get("objective", values["loss"]).sum() + more
        return {name: (value, weights) for name, value in values.items()}

    def _of_tokens(
        self,
        model: Model,
        params: Params,
        hidden: jax.Array,
        batch: Batch,
        weights: jax.Array,
        ctx: Context,
        scale: Any,
    ) -> tuple[jax.Array, jax.Array]:
        """Each row's mean loss of a next token, [B], and their sum, which carries the gradient, first."""
        language: LanguageModel = able(model, LanguageModel, "objective.auxiliary_lm")
        by_token = batch["decoder_loss_weights"]
        rest = {
            "targets": batch["decoder_target_tokens"],
            "weights": by_token / jnp.maximum(by_token.sum(1), 1)[:, None],
        }
        value, sums = over_vocabulary(language, params, hidden, rest, weights, ctx, scale)
        return value, sums["loss"]


build = Labels
