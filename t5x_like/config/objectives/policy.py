# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from t5x_like.config.checks import Coefficient, Count, Positive, Share
from t5x_like.config.data.conversations import ConversationsConfig
from t5x_like.config.data.tasks import FillInTheMiddleConfig, LanguageModelConfig
from t5x_like.config.objectives.cross_entropy import CrossEntropyConfig
from t5x_like.errors import UserError
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class PolicyConfig(CrossEntropyConfig):
    """Reinforcement learning from what the model writes itself: a call of `execution.steps_per_call` steps begins with
    `samples` answers to each of its prompts, which every step takes a batch of."""

    kind: Literal["policy"] = "policy"
    # "grpo" compares an answer with the others to its prompt (Shao et al. 2024), "ppo" with what a value head expects
    # (Schulman et al. 2017; Ouyang et al. 2022), "rejection" learns the best alone by heart.
    algorithm: Literal["grpo", "ppo", "rejection"] = "grpo"
    # "exact": 1 for the very answer of the data; "contains": 1 where it is in the text; "unit_test": 1 where the answer
    # of the data, a program, runs without error behind the text; "model": what `reward_model` says.
    reward: Literal["exact", "contains", "unit_test", "model"] = "exact"
    reward_model: str = ""
    reference: str = ""
    samples: Count = 8  # answers to a prompt
    passes: Count = 1  # how often a call's answers are taken, in passes one after the other
    # So many prompts for each that is used; those whose answers have all the same reward are left out (DAPO's dynamic
    # sampling, Yu et al. 2025).
    oversample: Count = 1
    max_new_tokens: Count = 64
    temperature: Positive = 1.0
    clip: Positive = 0.2  # how far the ratio of new and old probabilities moves what is learnt, down and up
    clip_high: Positive | None = None  # up; None: as far as down
    # Tokens count alike ("tokens", DAPO), texts do ("texts", GRPO), or a text's sum is divided by `max_new_tokens`
    # ("constant", Liu et al. 2025, Dr. GRPO).
    normalise: Literal["tokens", "texts", "constant"] = "texts"
    divide_by_std: bool = True  # a group's rewards by their standard deviation; Dr. GRPO does not
    kl: Coefficient = 0.0  # weight of the divergence from the reference: in GRPO's loss, or off PPO's rewards by token
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # of Schulman 2020
    discount: Share = 1.0  # of advantages (Schulman et al. 2016), as gae_lambda
    gae_lambda: Share = 0.95
    value: Coefficient = 0.1  # weight of the value head's loss
    value_clip: Coefficient = 0.2  # of the value's change
    pretraining: Coefficient = 0.0  # weight of the loss, added, of `texts` (PPO-ptx, Ouyang et al. 2022)
    # A batch a step; None: the data's own answers.
    texts: LanguageModelConfig | FillInTheMiddleConfig | ConversationsConfig | None = None
    seconds: Positive = 2.0  # that a unit test may take, with as much memory
    memory_mb: Count = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples == 1 and self.algorithm != "ppo":
            raise FieldError("samples", f"1 has nothing to be compared with in {self.algorithm!r}; accepted: 2 or more")
        if self.reward_model and self.reward != "model":
            raise FieldError(
                "reward_model", f"{self.reward_model!r} does not go with reward={self.reward!r}; accepted: ''"
            )
        if self.texts is not None and not self.pretraining:
            raise FieldError(
                "texts", f"of kind {self.texts.kind!r} weigh nothing; accepted: None, or pretraining above 0"
            )
        if self.z_loss or self.label_smoothing:
            raise FieldError("z_loss" if self.z_loss else "label_smoothing", "is for losses of targets; accepted: 0")

    def check(self, run: Any) -> None:
        """See `ObjectiveConfig.check`."""
        steps, size = run.execution.steps_per_call, run.training.batch_size
        if steps % self.passes:
            raise UserError(f"objective.passes: {self.passes} does not divide execution.steps_per_call={steps}")
        if size % self.samples:
            raise UserError(f"objective.samples: {self.samples} answers do not divide training.batch_size={size}")
        if run.mesh.pipe != 1:
            raise UserError(f"mesh.pipe: {run.mesh.pipe}, but a policy writes without stages; accepted: 1")
        if getattr(run.data, "pack", True):
            accepted = "data.kind='conversations' with pack=false"
            raise UserError(f"data.pack: a policy answers one prompt a row; accepted: {accepted}")

    @property
    def folders(self) -> Mapping[str, str]:
        given = {"reference": self.reference if self.kl else "", "reward": self.reward_model}
        return {name: folder for name, folder in given.items() if folder}
