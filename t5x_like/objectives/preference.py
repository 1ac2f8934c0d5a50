# SPDX-License-Identifier: Apache-2.0
"""Which of two answers is preferred: losses of a policy's log-probabilities, and of a reward model's numbers.

A row has the answers as its segments, 1 the preferred one (`data/tasks/preferences.py`). A loss of sums over tokens is
no sum over tokens, and logits are there for a chunk of them at a time; so there are two passes. The first adds up, the
second has each token's log-probability times the loss's slope at those sums, whose gradient is the loss's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.objectives.preference import PreferenceConfig, RewardConfig
from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import LanguageModel, Model, able
from t5x_like.objectives.asks import Asks, log_probs
from t5x_like.objectives.cross_entropy import of_model, over_vocabulary, token_losses
from t5x_like.objectives.task import Batch, Scale, SummedTask, Sums


def dpo(c: PreferenceConfig, sums: jax.Array, counts: jax.Array, reference: jax.Array) -> jax.Array:
    """Losses [B] of pairs: sums of log-probabilities [2, B], of how many tokens, and the reference's; see
    `PreferenceConfig`."""
    h = c.beta * _difference(sums - reference)
    return -(1 - c.label_smoothing) * jax.nn.log_sigmoid(h) - c.label_smoothing * jax.nn.log_sigmoid(-h)


def ipo(c: PreferenceConfig, sums: jax.Array, counts: jax.Array, reference: jax.Array) -> jax.Array:
    return jnp.square(_difference((sums - reference) / counts) - 1 / (2 * c.beta))


def kto(c: PreferenceConfig, sums: jax.Array, counts: jax.Array, reference: jax.Array) -> jax.Array:
    """Of rows with a third part, whose prompts have others' answers: what these moved by, on average over the batch,
    is what the others are compared with; it has no gradient."""
    h = sums - reference
    middle = jax.lax.stop_gradient(jnp.maximum(h[2].mean(), 0))
    return (2 - jax.nn.sigmoid(c.beta * (h[0] - middle)) - jax.nn.sigmoid(c.beta * (middle - h[1]))) / 2


def orpo(c: PreferenceConfig, sums: jax.Array, counts: jax.Array, reference: jax.Array) -> jax.Array:
    means = sums / counts
    odds = means - jnp.log1p(-jnp.exp(jnp.minimum(means, -1e-6)))
    return -means[0] - c.beta * jax.nn.log_sigmoid(_difference(odds))


def simpo(c: PreferenceConfig, sums: jax.Array, counts: jax.Array, reference: jax.Array) -> jax.Array:
    return -jax.nn.log_sigmoid(c.beta * _difference(sums / counts) - c.margin)


LOSSES: dict[str, Callable[..., jax.Array]] = {"dpo": dpo, "ipo": ipo, "kto": kto, "orpo": orpo, "simpo": simpo}


def _difference(pair: jax.Array) -> jax.Array:
    return pair[0] - pair[1]


class Preference(Asks):
    """See `PreferenceConfig`. "accuracy": whether the preferred answer has gained more on the reference than the other,
    or without one has the larger mean; "margin": by how much, in nats; "chosen_log_prob": a token's of the preferred.
    """

    def __init__(self, config: PreferenceConfig):
        super().__init__(config)
        self.separable = config.loss != "kto"  # which compares with a mean over the batch

    @property
    def needs_reference(self) -> bool:
        return bool(self.config.compares)

    def prepare(self, state: Any, batch: Batch, key: jax.Array) -> Batch:
        """Adds the reference's log-probabilities."""
        del key
        return self.asked({**state.frozen}, state.teacher, batch)

    def asked(self, params: Params, others: Params, batch: Batch) -> Batch:
        """The batch with "reference_log_probs", sums by row and segment, [B, parts]."""
        if not self.needs_reference:
            return batch
        model, own = self.reference(params, others)
        hidden = model.apply(own, batch, want=("hidden",), ctx=self.asks_in)["hidden"]
        told = log_probs(model, own, hidden, batch["decoder_target_tokens"], self.asks_in, self.config.logits_chunk)
        return {**batch, "reference_log_probs": _by_segment(self._masks(batch), told).T}

    def _masks(self, batch: Batch) -> jax.Array:
        """Which tokens are an answer's, float32 [parts, B, T]."""
        parts = 3 if self.config.loss == "kto" else 2
        segments, weights = batch["decoder_segment_ids"], batch["decoder_loss_weights"]
        return jnp.stack([weights * (segments == number) for number in range(1, parts + 1)])

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        c, masks = self.config, self._masks(batch)
        language: LanguageModel = able(model, LanguageModel, f"objective.kind={c.kind!r}")
        outputs = language.apply(params, batch, key=key, train=ctx.train, want=("hidden",), ctx=ctx)
        hidden, targets = outputs["hidden"], batch["decoder_target_tokens"]
        sums = _by_segment(masks, log_probs(language, params, hidden, targets, ctx, c.logits_chunk))
        counts, weight = jnp.maximum(masks.sum(2), 1), (masks[0].sum(1) > 0).astype(jnp.float32)
        reference = batch["reference_log_probs"].T if self.needs_reference else jnp.zeros_like(sums)

        def losses(sums: jax.Array) -> jax.Array:
            return weight * (LOSSES[c.loss](c, sums, counts, reference) - c.sft * sums[0] / counts[0])

        loss = losses(sums)
        gained = (sums - reference) / (1 if self.needs_reference else counts)
        found = {"loss": loss, "accuracy": weight * (gained[0] > gained[1]), "margin": weight * _difference(gained)}
        found["chosen_log_prob"] = weight * sums[0] / counts[0]
        aux, penalty = of_model(model, outputs["aux"], weight)
        if ctx.train:
            slopes = jax.grad(lambda sums: losses(sums).sum())(sums)
            rest = {"targets": targets, "weights": masks.sum(0), "slopes": (slopes[..., None] * masks).sum(0)}
            how: Any = {"wanted": c.logits_chunk, "by_token": _sloped}
            carried, _ = over_vocabulary(language, params, hidden, rest, weight, ctx, scale, **how)
            found["objective"] = loss.sum() + carried - jax.lax.stop_gradient(carried) + penalty
        return {name: (value, weight) for name, value in (found | aux).items()}


def _sloped(logits: jax.Array, rest: Batch, **how: Any) -> dict[str, jax.Array]:
    return {"objective": -rest["slopes"] * token_losses(logits, rest["targets"], **how)["loss"]}


def _by_segment(masks: jax.Array, values: jax.Array) -> jax.Array:
    """[parts, B]."""
    return (masks * values).sum(2)


class Reward(SummedTask):
    """See `RewardConfig`. "accuracy": whether the preferred answer has the larger reward; "margin": by how much."""

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        c: RewardConfig = self.config
        if getattr(model.config, "head", None) != "scalar":
            raise UserError("model.head: a reward is one number; accepted: 'scalar'")
        outputs = model.apply(params, batch, key=key, train=ctx.train, want=("values",), ctx=ctx)
        segments, real = batch["decoder_segment_ids"], batch["decoder_loss_weights"]
        chosen, rejected = (at_end(outputs["values"], real * (segments == number)) for number in (1, 2))
        weight = (segments == 1).any(1).astype(jnp.float32)
        loss = -jax.nn.log_sigmoid(chosen - rejected - c.margin) + c.centre * jnp.square(chosen + rejected)
        found = {"loss": loss, "accuracy": chosen > rejected, "margin": chosen - rejected}
        aux, penalty = of_model(model, outputs["aux"], weight)
        sums = {name: (value * weight, weight) for name, value in found.items()}
        if model.aux_losses and ctx.train:
            sums["objective"] = (sums["loss"][0].sum() + penalty, weight)
        return sums | {name: (value, weight) for name, value in aux.items()}


def at_end(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Of values [B, T] those at each row's last place where the mask is not 0, [B]; 0 where it has none."""
    places = jnp.arange(values.shape[1])
    last = jnp.where(mask > 0, places, -1).max(1, keepdims=True)
    return jnp.where(places == last, values, 0).sum(1)


def build(config: Any) -> Any:
    return Reward(config) if isinstance(config, RewardConfig) else Preference(config)
