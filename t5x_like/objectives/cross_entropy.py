# SPDX-License-Identifier: Apache-2.0
"""The cross-entropy of tokens over a model's hidden states, a chunk of positions at a time.

One loss for causal, prefix, masked and sequence-to-sequence language modelling: they differ in what a batch holds and
in whose tokens are targets, those of the last stream that the model has.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError
from t5x_like.models.context import Context, Layout
from t5x_like.models.layers import cpu
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import LanguageModel, Model, able
from t5x_like.objectives.chunked import chunk_length, most_logits, parts_of, sum_over_chunks
from t5x_like.objectives.task import Batch, Scale, SummedTask, Sums


class TokenCrossEntropy(SummedTask):
    """Cross-entropy of tokens.

    With label smoothing, z-loss or a router's losses "loss" is still the plain cross-entropy; then "objective" is what
    training minimises, and "z_loss" its share of that.

    A model's auxiliary losses are means over the tokens of one microbatch. That is their definition: a microbatch
    counts by the weight of its tokens, and accumulating M of them minimises the mean over M parts, not what the whole
    batch would have at once. They are reported without their factors, beside what else the model has to say.

    With `labels` and a model of next sentences their mean loss is in "objective", too (Devlin et al. 2019, A.2); a row
    counts by its weights there, as its tokens do, so that microbatches add up.

    The batch has `*_target_tokens` [B, T] of the stream and optionally `*_loss_weights` [B, T]. One from a known
    process carries `decoder_target_distribution` [B, T, V], the true distribution of every next token. Then evaluation
    has "divergence", too: KL(truth || model) in nats, which scores the model without the noise of sampled targets: its
    cross-entropy is the process's entropy plus that.

    Attributes:
      hard: the weight of the task's own loss in what is minimised.
      distils: whether a teacher has a part in it, too; see `distillation.py`.
    """

    hard = 1.0
    distils = False

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        language: LanguageModel = able(model, LanguageModel, f"objective.kind={self.config.kind!r}")
        pairs = "labels" in batch and getattr(model.config, "next_sentence", False)
        want = ["hidden"] + ["next_sentence"] * pairs + self._wants(batch)
        outputs = language.apply(params, batch, key=key, train=ctx.train, want=want, ctx=ctx)
        rest = self._targets(batch) | self._said(batch)
        weights = rest["weights"]
        if "decoder_target_distribution" in batch and not ctx.train:
            rest["distribution"] = batch["decoder_target_distribution"]
        # Held-out data is scored as it is.
        regularisers: dict[str, Any] = {
            n: getattr(self.config, n) if ctx.train else 0.0 for n in ("z_loss", "label_smoothing")
        }
        weight = weights.sum(1)
        how: Any = {"wanted": self.config.logits_chunk, "by_token": self._by_token}
        minimised, sums = over_vocabulary(
            language, params, outputs["hidden"], rest, weight, ctx, scale, **how, **regularisers
        )
        aux, penalty = of_model(model, outputs["aux"], weight)
        minimised = minimised + penalty
        for name, (value, factor) in self._by_row(outputs, batch).items():
            aux[name] = value * weight
            minimised = minimised + factor * aux[name].sum()
        values = {}
        if pairs:
            found = token_losses(outputs["next_sentence"], batch["labels"], one_cpu=ctx.one_cpu)
            minimised = minimised + self.hard * (found["loss"] * weight).sum()
            real = (weight > 0).astype(weight.dtype)
            values = {"next_sentence_" + name: (found[name] * real, real) for name in ("loss", "accuracy")}
        if ctx.train:  # the one that carries the gradient
            regularised = any(regularisers.values()) or model.aux_losses or pairs or self.distils
            sums = {**sums, "objective" if regularised else "loss": minimised}
        return values | {name: (value, weight) for name, value in (sums | aux).items()}

    def _by_token(self, logits: jax.Array, rest: Batch, **how: Any) -> dict[str, jax.Array]:
        """See `token_losses`; `rest` is what `_targets` and `_said` give."""
        return token_losses(logits, rest["targets"], **how)

    def _wants(self, batch: Batch) -> list[str]:
        """Further outputs of the model that a teacher's are compared with."""
        del batch
        return []

    def _said(self, batch: Batch) -> Batch:
        """What a teacher has said of every token."""
        del batch
        return {}

    def _by_row(self, outputs: Batch, batch: Batch) -> dict[str, tuple[jax.Array, float]]:
        """Further losses, means over a row's tokens [B], and their weights in what is minimised."""
        del outputs, batch
        return {}

    def _targets(self, batch: Batch) -> Batch:
        """What is predicted, [B, T] each: "targets" and "weights"."""
        if self.config.kind == "prefix_lm" and "decoder_causal_attention" not in batch:
            raise UserError("objective.kind: 'prefix_lm' needs texts with a prefix; accepted: data.kind='prefix_lm'")
        stream = self.config.streams[-1]
        targets = batch[f"{stream}_target_tokens"]
        weights = batch.get(f"{stream}_loss_weights", jnp.ones(targets.shape, jnp.float32))
        return {"targets": targets, "weights": weights}


def over_vocabulary(
    model: LanguageModel,
    params: Params,
    hidden: jax.Array,
    rest: Batch,
    weight: jax.Array,
    ctx: Context,
    scale: jax.Array | None,
    wanted: int | None = None,
    by_token: Callable[..., dict[str, jax.Array]] | None = None,
    **regularisers: float,
) -> tuple[jax.Array, Batch]:
    """What training minimises, a scalar that carries the gradient, and sums of `token_losses` by row, [B] each.

    Args:
      hidden: [B, T, D].
      rest: [B, T] each, `targets`, `weights`; maybe a `distribution` [B, T, V].
      weight: [B], whose sum the caller divides by; `scale` is as in `Task.loss`.
      wanted: see `chunk_length`.
      by_token: losses of logits and `rest`; None: `token_losses`.
    """

    def of_chunk(params: Params, hidden: jax.Array, rest: Batch, layout: Layout | None) -> tuple[jax.Array, Batch]:
        logits = model.unembed(params, hidden, ctx.replace(layout=layout))
        how: Any = {**regularisers, "one_cpu": ctx.one_cpu}
        values = by_token(logits, rest, **how) if by_token else token_losses(logits, rest["targets"], **how)
        if "distribution" in rest:
            values["divergence"] = divergence(rest["distribution"], logits)
        sums = {name: (value * rest["weights"]).sum(1) for name, value in values.items()}
        return sums.pop("objective").sum(), sums

    chunk = at_once(rest["targets"].shape, model.vocab_size, ctx, wanted)
    if scale is not None:  # of the mean; chunks add up to a sum
        scale = scale / jnp.where(weight.sum() > 0, weight.sum(), 1.0)
    with jax.named_scope("loss"):  # for profiles
        return sum_over_chunks(of_chunk, chunk, model.unembedding(params), hidden, rest, scale, ctx.layout)


def at_once(shape: tuple[int, ...], vocab_size: int, ctx: Context, wanted: int | None = None) -> int:
    """How many positions of a batch [B, T] have logits at once."""
    rows, length = shape
    sequences, parts = -(-rows // ctx.batch_parts), parts_of(ctx.layout, length)
    most = cpu.MOST_LOGITS if ctx.one_cpu else most_logits(ctx.device_memory)
    return chunk_length(length, vocab_size, sequences, wanted, most, parts)


def of_model(model: Model, aux: Batch, weight: jax.Array) -> tuple[Batch, jax.Array]:
    """What a model has to say beside its outputs, by row, [B] each, and its auxiliary losses' share of what training
    minimises."""
    by_row = {name: _by_row(value, len(weight)) * weight for name, value in aux.items()}
    return by_row, sum((factor * by_row[name].sum() for name, factor in model.aux_losses.items()), jnp.zeros(()))


def _by_row(value: jax.Array, rows: int) -> jax.Array:
    """[parts], for every part of the batch, to [rows], of which each part has as many in a piece."""
    value = jnp.atleast_1d(value)
    return jnp.repeat(value, rows // len(value), total_repeat_length=rows)


def token_losses(
    logits: jax.Array, targets: jax.Array, *, z_loss: float = 0.0, label_smoothing: float = 0.0, one_cpu: bool = False
) -> dict[str, jax.Array]:
    """Cross-entropy in nats and whether no token is likelier than the target, by token; and what training minimises.

    That is "objective", and differs from "loss" only with z-loss or label smoothing; "z_loss" is its share of it.

    Label smoothing (Szegedy et al. 2016) spreads a share of every target over all tokens alike, the target among them:
    T5X spreads it over the others. The cross-entropy is then (1 - share) loss + share (log Z - mean logit), with Z the
    softmax's denominator. z-loss (Chowdhery et al. 2022) adds `z_loss` log(Z)^2, which keeps Z near 1. Neither needs a
    distribution over the vocabulary spelt out. Logits are [B, T, V], targets int [B, T].
    """
    log_z, target, largest = _softmax_parts(one_cpu, logits, targets)
    loss = log_z - target
    # Logits that are all alike are no prediction, and never right. Counting ties would be one more pass over them.
    correct = (target >= largest) & (loss < math.log(logits.shape[-1]) - 1e-5)
    values = {"loss": loss, "accuracy": correct.astype(logits.dtype), "objective": loss}
    if label_smoothing:
        values["objective"] = (1 - label_smoothing) * loss + label_smoothing * (log_z - logits.mean(-1))
    if z_loss:
        values["z_loss"] = z_loss * jnp.square(log_z)
        values["objective"] = values["objective"] + values["z_loss"]
    return values


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax_parts(one_cpu: bool, logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """log sum exp of the logits, the target's logit and the largest one (of no gradient), [B, T] each.

    Its gradient is one pass over the logits; autodiff alone takes one for every part.
    """
    largest = logits.max(-1)
    log_z = largest + jnp.log(jnp.exp(logits - largest[..., None]).sum(-1))
    if one_cpu:
        target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    else:  # selected: a gather from a sharded vocabulary would gather the logits first
        target = jnp.where(_is_target(logits, targets), logits, 0.0).sum(-1)
    return log_z, target, largest


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.arange(logits.shape[-1]) == targets[..., None]


def _softmax_parts_forward(one_cpu: bool, logits: jax.Array, targets: jax.Array) -> Any:
    parts = _softmax_parts(one_cpu, logits, targets)
    return parts, (logits, targets, parts[0])


def _softmax_parts_backward(one_cpu: bool, saved: Any, cotangents: Any) -> tuple[jax.Array, None]:
    del one_cpu
    logits, targets, log_z = saved
    d_log_z, d_target, _ = cotangents
    d_logits = d_log_z[..., None] * jnp.exp(logits - log_z[..., None])
    return d_logits + jnp.where(_is_target(logits, targets), d_target[..., None], 0.0), None


_softmax_parts.defvjp(_softmax_parts_forward, _softmax_parts_backward)


def divergence(distribution: jax.Array, logits: jax.Array) -> jax.Array:
    """KL(distribution || softmax(logits)) in nats over the last dimension; tokens past the distribution's have none."""
    missing = logits.shape[-1] - distribution.shape[-1]
    distribution = jnp.pad(distribution, [(0, 0)] * (distribution.ndim - 1) + [(0, missing)])
    log_p = jnp.log(jnp.maximum(distribution, jnp.finfo(jnp.float32).tiny))
    return (distribution * (log_p - jax.nn.log_softmax(logits, axis=-1))).sum(-1)


build = TokenCrossEntropy
