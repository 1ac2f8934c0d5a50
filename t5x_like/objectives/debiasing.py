# SPDX-License-Identifier: Apache-2.0
"""Debiasing by equalised log-probabilities of paired sentences, which differ in whom they speak of."""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.objectives.cross_entropy import TokenCrossEntropy, token_losses
from t5x_like.objectives.task import Batch, Scale, Sums


class Debiasing(TokenCrossEntropy):
    """The cross-entropy of tokens, "loss", plus `weight` times the mean over a batch's rows of "pair_gap":

        (ln p(stereotyped) - ln p(other))^2

    of the pair that a row brings, each probability that of all the sentence's tokens. "pair_preference" is the share of
    pairs whose stereotyped sentence is likelier. So Qian et al. 2019 equalise words of a pair; here it is whole texts.
    """

    distils = True  # what is minimised differs from the loss

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        if "pair_targets" not in batch:
            raise UserError("objective.kind: 'debiasing' needs pairs of sentences; accepted: data.kind='debiasing'")
        inputs, targets, real = (batch[f"pair_{name}"] for name in ("inputs", "targets", "real"))
        flat = {"decoder_input_tokens": inputs, "decoder_segment_ids": real}
        flat = {name: value.reshape(-1, value.shape[-1]) for name, value in flat.items()}
        logits = model.apply(params, flat, train=False, want=("logits",), ctx=ctx)["logits"]
        losses = token_losses(logits.reshape(*targets.shape, -1), targets, one_cpu=ctx.one_cpu)["loss"]
        log_probs = -(losses * real).sum(-1)
        batch = {**batch, "pair_apart": log_probs[:, 0] - log_probs[:, 1]}
        return super()._sums(model, params, batch, key, ctx, scale)

    def _by_row(self, outputs: Batch, batch: Batch) -> dict[str, tuple[jax.Array, float]]:
        apart = batch["pair_apart"]
        preferred = (apart > 0).astype(apart.dtype)
        return {"pair_gap": (jnp.square(apart), self.config.weight), "pair_preference": (preferred, 0.0)}


build = Debiasing
