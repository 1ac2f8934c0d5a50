# SPDX-License-Identifier: Apache-2.0
"""Policy gradients of answers that the model has written itself (`rollouts/`), as `PolicyConfig` says.

With r = exp(log p - decoder_old_logprobs), a token's loss is -min(r A, clip(r, 1 - clip, 1 + clip_high) A), A being
`decoder_advantages`; of rejection sampling it is -A log p, A 1 for the best answer to a prompt and 0 for others.

A batch has beside the `decoder_*` features decoder_advantages, decoder_old_logprobs, and maybe
decoder_reference_logprobs, decoder_returns and decoder_old_values, [B, T] each, and rewards [B].
"""

from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.objectives.policy import PolicyConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import LanguageModel, Model, able
from t5x_like.objectives.asks import Asks, log_probs
from t5x_like.objectives.cross_entropy import of_model, over_vocabulary, token_losses
from t5x_like.objectives.preference import at_end
from t5x_like.objectives.task import Batch, Scale, Sums

FEATURES = ("advantages", "old_logprobs", "reference_logprobs")


class Policy(Asks):
    """ "loss" is the cross-entropy of what the model has written, in evaluation that of the data's answers; "objective"
    what is minimised. "reward" is an answer's, "checked_reward" beside a model's whether it is right, "kl" its
    divergence from the reference, "clip_fraction" the share of tokens whose ratio is clipped, "value_loss" the value
    head's.
    """

    config: PolicyConfig

    @property
    def needs_reference(self) -> bool:
        return self.config.kl > 0

    def _sums(self, model: Model, params: Params, batch: Batch, key: Any, ctx: Context, scale: Scale = None) -> Sums:
        if "decoder_advantages" not in batch:  # data as it is
            return super()._sums(model, params, batch, key, ctx, scale)
        c = self.config
        language: LanguageModel = able(model, LanguageModel, f"objective.kind={c.kind!r}")
        want = ["hidden", *["values"] * (c.algorithm == "ppo")]
        outputs = language.apply(params, batch, key=key, train=ctx.train, want=want, ctx=ctx)
        written = (batch["decoder_loss_weights"] != 0).astype(jnp.float32)
        shares, weight = self._shares(written)
        rest = {name: batch[f"decoder_{name}"] for name in FEATURES if f"decoder_{name}" in batch}
        rest |= {"targets": batch["decoder_target_tokens"], "weights": shares}
        how: Any = {"wanted": c.logits_chunk, "by_token": self._of_token}
        minimised, sums = over_vocabulary(language, params, outputs["hidden"], rest, weight, ctx, scale, **how)
        if c.algorithm == "ppo":
            far = value_loss(outputs["values"], batch["decoder_old_values"], batch["decoder_returns"], c.value_clip)
            sums["value_loss"] = (far * shares).sum(1)
            minimised = minimised + c.value * sums["value_loss"].sum()
        aux, penalty = of_model(model, outputs["aux"], weight)
        found = {name: (value, weight) for name, value in (sums | aux).items()}
        there = written.any(1).astype(jnp.float32)
        found |= {"reward": (batch["rewards"] * there, there), "written_tokens": (written.sum(1), there)}
        if "checked_rewards" in batch:
            found["checked_reward"] = (batch["checked_rewards"] * there, there)
        minimised = minimised + penalty
        if c.pretraining:
            value, found["pretraining_loss"] = self._of_data(language, params, batch, key, ctx, scale, weight)
            minimised = minimised + c.pretraining * value
        return found | {"objective": (minimised, weight)}

    def _shares(self, written: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What a token's loss is multiplied by, [B, T], and what their sum is divided by, by row [B]."""
        tokens = written.sum(1)
        if self.config.normalise == "tokens":
            return written, tokens
        by = jnp.maximum(tokens, 1) if self.config.normalise == "texts" else float(self.config.max_new_tokens)
        return written / jnp.reshape(by, (-1, 1)), (tokens > 0).astype(jnp.float32)

    def _of_token(self, logits: jax.Array, rest: Batch, **how: Any) -> dict[str, jax.Array]:
        c = self.config
        values = token_losses(logits / c.temperature, rest["targets"], **how)
        log_p, advantages = -values["loss"], rest["advantages"]
        found = {"loss": values["loss"]}
        if c.algorithm == "rejection":
            return found | {"objective": -advantages * log_p}
        ratio = jnp.exp(log_p - rest["old_logprobs"])
        within = jnp.clip(ratio, 1 - c.clip, 1 + (c.clip if c.clip_high is None else c.clip_high))
        objective = -jnp.minimum(ratio * advantages, within * advantages)
        found["clip_fraction"] = (within * advantages < ratio * advantages).astype(jnp.float32)
        if "reference_logprobs" in rest:
            found["kl"] = divergence_estimate(log_p, rest["reference_logprobs"], c.kl_estimator)
            if c.algorithm == "grpo":
                objective = objective + c.kl * found["kl"]
        return found | {"objective": objective}

    def _of_data(
        self, model: LanguageModel, params: Params, batch: Batch, key: Any, ctx: Context, scale: Any, weight: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The loss of the data's own rows, whose features begin with "data_": the sum over rows of the mean over their
        tokens, times `weight` [B], and the sums by row with their weights."""
        own = {name.removeprefix("data_"): value for name, value in batch.items() if name.startswith("data_")}
        hidden = model.apply(params, own, key=key, train=ctx.train, want=("hidden",), ctx=ctx)["hidden"]
        tokens = own["decoder_loss_weights"]
        shares = tokens * (weight / jnp.maximum(tokens.sum(1), 1))[:, None]
        rest = {"targets": own["decoder_target_tokens"], "weights": shares}
        value, sums = over_vocabulary(model, params, hidden, rest, weight, ctx, scale, self.config.logits_chunk)
        return value, (sums["loss"], weight)

    def score(self, params: Params, others: Params, model: Any, batch: Batch, ctx: Context) -> Batch:
        """What rows that the model has written are learnt with, [B, T] each: old_logprobs, and as far as they are
        needed old_values and reference_logprobs; rewards [B] of a reward model."""
        c = self.config

        def read(model: Any, params: Params, want: tuple[str, ...]) -> Any:
            return model.apply(params, batch, want=want, ctx=ctx)

        def told(model: Any, params: Params, hidden: jax.Array) -> jax.Array:
            how = c.logits_chunk, c.temperature
            return log_probs(model, params, hidden, batch["decoder_target_tokens"], ctx, *how)

        own = read(model, params, ("hidden", *["values"] * (c.algorithm == "ppo")))
        found = {"old_logprobs": told(model, params, own["hidden"])}
        if c.algorithm == "ppo":
            found["old_values"] = own["values"]
        if self.needs_reference:
            theirs, kept = self.reference(params, others)
            found["reference_logprobs"] = told(theirs, kept, read(theirs, kept, ("hidden",))["hidden"])
        if "reward" in self.others:
            values = read(self.others["reward"], others["reward"], ("values",))["values"]
            found["rewards"] = at_end(values, batch["decoder_loss_weights"])
        return found


def value_loss(values: jax.Array, old: jax.Array, returns: jax.Array, clip: float) -> jax.Array:
    """Half the square of the distance from the returns, of the values or of those within `clip` of the old ones,
    whichever is larger (Schulman et al. 2017's code; Ouyang et al. 2022, C.4)."""
    within = old + jnp.clip(values - old, -clip, clip)
    return jnp.maximum(jnp.square(values - returns), jnp.square(within - returns)) / 2


def divergence_estimate(log_p: jax.Array, reference: jax.Array, kind: str) -> jax.Array:
    """Estimates KL(p || reference) from tokens that p has drawn: k1 is log p - log q, k2 half its square, k3
    exp(log q - log p) - 1 - (log q - log p) (Schulman 2020, "Approximating KL divergence")."""
    far = reference - log_p
    return -far if kind == "k1" else jnp.square(far) / 2 if kind == "k2" else jnp.expm1(far) - far


build = Policy
