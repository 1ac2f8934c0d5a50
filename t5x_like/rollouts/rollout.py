# SPDX-License-Identifier: Apache-2.0
"""What a call of steps learns from: answers that the model writes as it is at the call's first step.

Prompts are the data's, up to the last answer; they follow from (config, seed, step), and so do the answers from these
and the parameters: a run that goes on writes what an unbroken one would have.
"""

import copy
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from t5x_like.config import RunConfig
from t5x_like.config.objectives.policy import PolicyConfig
from t5x_like.data.dataset import Dataset
from t5x_like.data.packing import Batch
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.tasks.text import decoder_features, padded
from t5x_like.inference.generate import generate
from t5x_like.inference.sampling import Sampling
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.parallel.local_rows import as_the_first, whole
from t5x_like.rollouts.advantages import ALIKE, best_of_groups, generalised, of_groups, whitened
from t5x_like.rollouts.rewards import rewards_of

Pair = tuple[list[int], list[int]]  # a prompt, the data's answer without its end


class Rollout:
    """Batches of a policy: `rollout(params, others, step) -> {name: [K, B, ...]}`."""

    def __init__(self, config: RunConfig, program: Any, dataset: Dataset):
        c: PolicyConfig = config.objective  # type: ignore[assignment]
        self.policy = c
        self.config, self.program = config, program
        self.dataset: Any = dataset
        steps, size = config.execution.steps_per_call, config.training.batch_size
        self.batches, self.prompts = steps // c.passes, size // c.samples
        self.sampling, self.ctx = Sampling(temperature=c.temperature), program.ctx.replace(remat="none")

    def __call__(self, params: Params, others: Params, step: int) -> Batch:
        c, asked = self.policy, self._asked(step)
        groups = self._written(params, asked, step)
        rows = [self._row(prompt, new) for (prompt, _), group in zip(asked, groups, strict=True) for new in group]
        batch = self._features(rows)
        told = self._told(params, others, batch)
        rewards = told.pop("rewards", None)
        decode = self.dataset.tokenizer.decode
        texts = [decode(new) for group in groups for new in group]
        answers = [decode(answer) for _, answer in asked for _ in range(c.samples)]
        checked = as_the_first(np.array(rewards_of(c, texts, answers), np.float32))
        if rewards is None:
            rewards = checked
        else:
            batch["checked_rewards"] = checked
        batch |= {f"decoder_{name}": value for name, value in told.items()} | {"rewards": rewards}
        batch |= self._advantages(batch, rewards)
        if c.pretraining and c.texts is None:
            own = [self._row(prompt, answer) for prompt, answer in asked for _ in range(c.samples)]
            batch |= {f"data_{name}": value for name, value in self._features(own).items()}
        chosen = self._chosen(rewards)
        stacked = {name: self._stacked(value[chosen]) for name, value in batch.items()}
        if self.policy.texts is not None:
            size = self.config.training.batch_size
            mixed = self.dataset.texts.training_batches(step, self.config.execution.steps_per_call, size)
            stacked |= {f"data_{name}": value for name, value in mixed.items()}
        return self._own(stacked, 1)

    def _own(self, batch: Batch, leading: int) -> Batch:
        """This host's rows; every host has all, the same."""
        share = self.program.share
        return {name: np.split(value, share.parts, axis=leading)[share.part] for name, value in batch.items()}

    def _asked(self, step: int) -> list[Pair]:
        """The prompts of the call that begins with a step."""
        batches, prompts = self.batches, self.prompts * self.policy.oversample
        first = step // self.policy.passes
        rows = self.dataset.training_batches(first, batches, prompts)
        rows = {name: value.reshape(-1, value.shape[-1]) for name, value in rows.items()}
        return [asked_of(*each) for each in zip(*(rows[f"decoder_{n}"] for n in _READ), strict=True)]

    def _written(self, params: Params, asked: Sequence[Pair], step: int) -> list[list[list[int]]]:
        """New tokens of every answer to each prompt, with their end where they have one."""
        c, end = self.policy, self.dataset.end
        prompts = [prompt[-max(1, self.dataset.sequence_length + 1 - c.max_new_tokens) :] for prompt, _ in asked]
        seed = zlib.crc32(f"{self.config.seed} {step}".encode())
        how: Any = {"max_new_tokens": c.max_new_tokens, "stop_tokens": [end], "num_samples": c.samples, "seed": seed}
        made = generate(self.program.model, params, prompts, sampling=self.sampling, ctx=self.ctx, **how).tokens
        whole = [tokens if len(tokens) == c.max_new_tokens else [*tokens, end] for tokens in made]
        return [whole[at : at + c.samples] for at in range(0, len(whole), c.samples)]

    def _row(self, prompt: list[int], new: list[int]) -> tuple[np.ndarray, int]:
        """A text, cut at its beginning to the length of a row, and how many of its tokens are new."""
        text = np.array([*prompt, *new], np.int32)[-self.dataset.sequence_length - 1 :]
        return text, min(len(new), len(text) - 1)

    def _features(self, rows: Sequence[tuple[np.ndarray, int]]) -> Batch:
        length = self.dataset.sequence_length
        tokens, real = padded([text[1:] for text, _ in rows], length)
        batch = decoder_features(tokens, real, 0)
        batch["decoder_input_tokens"][:, 0] = [text[0] for text, _ in rows]
        ends, new = (np.array([f(row) for row in rows])[:, None] for f in (lambda r: len(r[0]) - 1, lambda r: r[1]))
        places = np.arange(length)
        batch["decoder_loss_weights"] = ((places >= ends - new) & (places < ends)).astype(np.float32)
        return batch

    def _told(self, params: Params, others: Params, batch: Batch) -> Batch:
        """What the models say of all rows, a training batch of them at a time."""
        size = self.config.training.batch_size
        parts = []
        for at in range(0, len(batch["decoder_input_tokens"]), size):
            rows = self._own({name: value[at : at + size] for name, value in batch.items()}, 0)
            what = self.program.objective, self.program.model, self.ctx
            found = _scored(*what, params, others, self.program.on_devices(rows))
            parts.append({name: whole(value) for name, value in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _advantages(self, batch: Batch, rewards: np.ndarray) -> Batch:
        c, mask = self.policy, batch["decoder_loss_weights"]
        if c.algorithm != "ppo":
            whole = best_of_groups(rewards, c.samples) if c.algorithm == "rejection" else None
            whole = of_groups(rewards, c.samples, c.divide_by_std) if whole is None else whole
            return {"decoder_advantages": (whole[:, None] * mask).astype(np.float32)}
        by_token = np.zeros(mask.shape, np.float32)
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        by_token[np.arange(len(mask)), last] = rewards
        if c.kl:
            by_token -= c.kl * (batch["decoder_old_logprobs"] - batch["decoder_reference_logprobs"]) * mask
        found, returns = generalised(by_token, batch["decoder_old_values"], mask, c.discount, c.gae_lambda)
        return {"decoder_advantages": whitened(found, mask), "decoder_returns": returns}

    def _chosen(self, rewards: np.ndarray) -> np.ndarray:
        """Which rows are learnt from: of each batch's groups the first so many whose rewards differ, then others."""
        samples = self.policy.samples
        groups = rewards.reshape(self.batches, -1, samples)
        order = np.argsort(groups.max(2) <= groups.min(2) + ALIKE, axis=1, kind="stable")[:, : self.prompts]
        order = np.sort(order, axis=1) + np.arange(self.batches)[:, None] * groups.shape[1]
        return (order.reshape(-1, 1) * samples + np.arange(samples)).reshape(-1)

    def _stacked(self, rows: np.ndarray) -> np.ndarray:
        """[N, ...] to [K, B, ...], pass after pass."""
        batches = rows.reshape(self.batches, self.config.training.batch_size, *rows.shape[1:])
        return np.concatenate([batches] * self.policy.passes)


_READ = ("input_tokens", "target_tokens", "loss_weights")


def with_texts(dataset: Dataset, config: RunConfig) -> Dataset:
    """The data with the texts that a policy mixes in, as `texts`; any others as they are."""
    if (wanted := getattr(config.objective, "texts", None)) is None:
        return dataset
    made: Any = copy.copy(dataset)
    made.texts = build_dataset(wanted, config.seed, None, dataset.tokenizer, "objective.texts")
    made.fingerprint = f"{dataset.fingerprint}-{made.texts.fingerprint}"
    return made


def asked_of(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Pair:
    """The prompt of a row up to its last answer, and that answer without its end."""
    last = int(np.flatnonzero(weights)[-1])
    first = last - int(np.argmin(weights[last::-1])) + 1 if (weights[: last + 1] == 0).any() else 0
    return inputs[: first + 1].tolist(), targets[first:last].tolist()


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scored(objective: Any, model: Any, ctx: Context, params: Params, others: Params, batch: Batch) -> Batch:
    return objective.score(params, others, model, batch, ctx)
