# SPDX-License-Identifier: Apache-2.0
"""How long a run is, its batches, and when it logs, evaluates and saves."""

import dataclasses
from dataclasses import dataclass

from t5x_like.config.checks import divisors, positive
from t5x_like.config.data import DataConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class TrainingConfig:
    """Length of the run (tokens or steps, one of them) and its batches."""

    tokens: int | None = None  # rounded to whole steps
    steps: int | None = None
    batch_size: int = 16  # sequences in a step, over all hosts
    microbatches: int = 1  # the batch is processed in this many parts, their gradients accumulated
    log_every: int = 10  # steps
    evaluate_every: int | None = None  # steps; None: only at the end
    eval_tokens: int = 262144  # held-out tokens, the same ones every time
    checkpoint_every: int | None = None  # steps; None: only at the end
    keep_checkpoints: int = 2
    ema_decay: float | None = None  # of an exponential moving average of the parameters; None: no average
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "microbatches", "log_every", "eval_tokens", "keep_checkpoints"):
            positive(self, name)
        for name in ("tokens", "steps", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) is not None:
                positive(self, name)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise FieldError("ema_decay", f"{self.ema_decay} is outside (0, 1)")
        if self.batch_size % self.microbatches:
            raise FieldError(
                "microbatches",
                f"{self.microbatches} do not divide batch_size={self.batch_size}; accepted: "
                f"{divisors(self.batch_size)}",
            )

    def resolve(self, data: DataConfig) -> "TrainingConfig":
        """States the run's length in both steps and tokens."""
        per_step = self.batch_size * data.sequence_length
        if self.steps is None and self.tokens is None:
            raise FieldError("tokens", "is None and so is steps; give one of them")
        steps = self.steps if self.steps is not None else max(1, round(float(self.tokens or 0) / per_step))
        if self.steps is not None and self.tokens not in (None, steps * per_step):
            raise FieldError("tokens", f"{self.tokens} and steps={self.steps} disagree; give one of them")
        return dataclasses.replace(self, steps=steps, tokens=steps * per_step)
