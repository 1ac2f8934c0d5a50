# SPDX-License-Identifier: Apache-2.0
"""Causal language modelling: the cross-entropy of every next token."""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config import CausalLMConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.objectives.chunked import chunk_length, sum_over_chunks
from t5x_like.objectives.task import Batch, Sums


class CausalLM:
    """A task: `prepare` a batch, then sums and weights of its losses.

    Attributes:
      separable: the loss is a sum over examples, so that microbatches may be accumulated.
    """

    separable = True

    def __init__(self, config: CausalLMConfig):
        self.config = config

    def prepare(self, state: Any, batch: Batch, key: jax.Array) -> Batch:
        """Identity: next-token prediction needs nothing from the state."""
        del state, key
        return batch

    def loss(
        self,
        model: Model,
        params: Params,
        batch: Batch,
        *,
        key: jax.Array | None,
        ctx: Context,
        scale: jax.Array | None = None,
    ) -> Sums:
        """Returns {"loss", "accuracy": (float32 sum over the batch, summed weights)} of a training batch.

        With label smoothing or z-loss "loss" is still the plain cross-entropy; then "objective" is what training
        minimises, and "z_loss" its share of that.

        Args:
          model: outputs "hidden" and unembeds.
          params: of the model.
          batch: a decoder-only batch with `decoder_target_tokens` [B, T] and optionally `decoder_loss_weights` [B, T].
          key: for dropout.
          ctx: execution.
          scale: what the caller multiplies the mean by before it differentiates; see `Task`.
        """
        return {
            name: (value.sum(), weight.sum())
            for name, (value, weight) in self._sums(model, params, batch, key, ctx.replace(train=True), scale).items()
        }

    def evaluate(self, model: Model, params: Params, batch: Batch, *, ctx: Context) -> Sums:
        """Returns the same for held-out data, each a pair of [B], one entry an example.

        A batch from a known process carries `decoder_target_distribution` [B, T, V], the true distribution of every
        next token. Then there is also "divergence": KL(truth || model) in nats, which scores the model without the
        noise of sampled targets: its cross-entropy is the process's entropy plus that.
        """
        return self._sums(model, params, batch, None, ctx.replace(train=False))

    def _sums(
        self,
        model: Model,
        params: Params,
        batch: Batch,
        key: jax.Array | None,
        ctx: Context,
        scale: jax.Array | None = None,
    ) -> Sums:
        outputs = model.apply(params, batch, key=key, train=ctx.train, want=("hidden",), ctx=ctx)
        targets = batch["decoder_target_tokens"]
        weights = batch.get("decoder_loss_weights", jnp.ones(targets.shape, jnp.float32))
        rest = {"targets": targets, "weights": weights}
        if "decoder_target_distribution" in batch and not ctx.train:
            rest["distribution"] = batch["decoder_target_distribution"]
        regularised = ctx.train and bool(self.config.z_loss or self.config.label_smoothing)

        def of_chunk(params: Params, hidden: jax.Array, rest: Batch) -> tuple[jax.Array, Batch]:
            logits = model.unembed(params, hidden, ctx)
            values = token_losses(logits, rest["targets"])
            if regularised:
                values |= regularise(values["loss"], logits, self.config.z_loss, self.config.label_smoothing)
            if "distribution" in rest:
                values["divergence"] = divergence(rest["distribution"], logits)
            sums = {name: (value * rest["weights"]).sum(1) for name, value in values.items()}
            return sums["objective" if regularised else "loss"].sum(), sums

        sequences = -(-targets.shape[0] // ctx.batch_parts)
        chunk = chunk_length(targets.shape[1], model.vocab_size, sequences, self.config.logits_chunk)
        weight = weights.sum(1)
        if scale is not None:  # of the mean; chunks add up to a sum
            scale = scale / jnp.where(weight.sum() > 0, weight.sum(), 1.0)
        minimised, sums = sum_over_chunks(of_chunk, chunk, model.unembedding(params), outputs["hidden"], rest, scale)
        if ctx.train:  # the one that carries the gradient
            sums = {**sums, "objective" if regularised else "loss": minimised}
        return {name: (value, weight) for name, value in sums.items()}


def token_losses(logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
    """Cross-entropy in nats and whether the likeliest token is the target, [B, T] each, from logits [B, T, V].

    Equally likely tokens are no prediction, so constant logits are never right.
    """
    at_target = jnp.arange(logits.shape[-1]) == targets[..., None]  # selected, not gathered: no scatter backwards
    target_logits = jnp.where(at_target, logits, 0.0).sum(-1)
    # No token but the target is as likely. Counting is one fused pass; argmax would cost as much as the loss itself.
    correct = (jax.lax.stop_gradient(logits) >= jax.lax.stop_gradient(target_logits)[..., None]).sum(-1) == 1
    return {
        "loss": jax.nn.logsumexp(logits, axis=-1) - target_logits,
        "accuracy": correct.astype(logits.dtype),
    }


def regularise(loss: jax.Array, logits: jax.Array, z_loss: float, label_smoothing: float) -> dict[str, jax.Array]:
    """What training minimises instead of the cross-entropy, by token: "objective", and "z_loss" where there is one.

    Label smoothing (Szegedy et al. 2016) spreads a share of every target over all tokens alike, the target among them:
    T5X spreads it over the others. The cross-entropy is then (1 - share) loss + share (log Z - mean logit), with Z the
    softmax's denominator. z-loss (Chowdhery et al. 2022) adds `z_loss` log(Z)^2, which keeps Z near 1. Neither needs a
    distribution over the vocabulary spelt out.

    Args:
      loss: cross-entropy [B, T].
      logits: [B, T, V].
      z_loss: coefficient.
      label_smoothing: share of a target that is spread, in [0, 1).
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    objective, values = loss, {}
    if label_smoothing:
        objective = (1 - label_smoothing) * loss + label_smoothing * (log_z - logits.mean(-1))
    if z_loss:
        values["z_loss"] = z_loss * jnp.square(log_z)
        objective = objective + values["z_loss"]
    return {"objective": objective, **values}


def divergence(distribution: jax.Array, logits: jax.Array) -> jax.Array:
    """KL(distribution || softmax(logits)) in nats over the last dimension; tokens past the distribution's have none."""
    missing = logits.shape[-1] - distribution.shape[-1]
    distribution = jnp.pad(distribution, [(0, 0)] * (distribution.ndim - 1) + [(0, missing)])
    log_p = jnp.log(jnp.maximum(distribution, jnp.finfo(jnp.float32).tiny))
    return (distribution * (log_p - jax.nn.log_softmax(logits, axis=-1))).sum(-1)
