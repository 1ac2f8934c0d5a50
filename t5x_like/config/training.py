# SPDX-License-Identifier: Apache-2.0
"""How long a run is, its batches, and when it logs, evaluates and saves."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from t5x_like.config.checks import Checked, Count, Fraction, divisors
from t5x_like.config.data import DataConfig
from t5x_like.config.durations import Duration, Measures, parse, resolve, whole_steps
from t5x_like.strict import FieldError

INTERVALS = ("log_every", "evaluate_every", "checkpoint_every")


@dataclass(frozen=True)
class TrainingConfig(Checked):
    """Length of the run (in tokens, steps, examples or epochs: one of them) and its batches.

    The intervals are durations (`durations.py`): a number of steps, or a text such as "1e6 tokens" or "10%".
    """

    tokens: Count | None = None  # rounded to whole steps, like examples and epochs
    steps: Count | None = None
    examples: Count | None = None  # sequences
    epochs: float | None = None  # passes over the training data
    batch_size: Count = 16  # sequences in a step, over all hosts
    microbatches: Count | Literal["auto"] = (
        1  # parts of a batch, their gradients accumulated; auto: see execution.remat
    )
    log_every: Duration = 10
    evaluate_every: Duration | None = None  # None: only at the end
    eval_tokens: Count = 262144  # held-out tokens, the same ones every time
    checkpoint_every: Duration | None = None  # None: only at the end
    keep_checkpoints: Count = 2
    ema_decay: Fraction | None = None  # of an exponential moving average of the parameters; None: no average
    # A loss or gradient that is not finite: "stop" as diverged; "skip" the step, which then changes nothing; "rewind"
    # to the newest checkpoint and go on behind the data in between.
    on_nonfinite: Literal["stop", "skip", "rewind"] = "stop"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise FieldError("epochs", f"{self.epochs} is not above 0")
        for name in INTERVALS:
            if getattr(self, name) is not None:
                parse(name, getattr(self, name))
        if self.microbatches != "auto" and self.batch_size % self.microbatches:
            self.refuse(
                "microbatches", f"do not divide batch_size={self.batch_size}; accepted: {divisors(self.batch_size)}"
            )

    @property
    def parts(self) -> int:
        """How many microbatches a step takes; all at once while that is left to be chosen."""
        return 1 if self.microbatches == "auto" else self.microbatches

    @property
    def resolved(self) -> bool:
        """Whether the length and every interval are known in steps; epochs are not before the data is."""
        return self.steps is not None and not any(isinstance(getattr(self, name), str) for name in INTERVALS)

    def resolve(self, data: DataConfig, epoch_examples: float | None = None) -> "TrainingConfig":
        """States the run's length in steps, tokens and examples, and the intervals in steps.

        Args:
          data: gives the tokens of an example.
          epoch_examples: training examples in an epoch, infinity where the data never ends; None: not known yet, and
            what needs it stays as it is.

        Raises:
          FieldError: no length, two that disagree, or epochs of data that never ends.
        """
        measures = Measures(self.batch_size, data.sequence_length, epoch_examples)
        steps = self._steps(measures)
        if steps is None:
            return self
        measures = dataclasses.replace(measures, steps=steps)
        intervals: dict[str, Any] = {name: resolve(name, getattr(self, name), measures) for name in INTERVALS}
        return dataclasses.replace(self, **_length(steps, measures), **intervals)

    def _steps(self, measures: Measures) -> int | None:
        """The run's length in steps, or None where it waits for the length of an epoch."""
        given = {n: getattr(self, n) for n in ("steps", "tokens", "examples", "epochs") if getattr(self, n) is not None}
        if not given:
            raise FieldError("tokens", "is None and so are steps, examples and epochs; give one of them")
        first, steps = next((name, resolve(name, f"{amount!r} {name}", measures)) for name, amount in given.items())
        if not isinstance(steps, int):
            return None  # of epochs, which are not known before the data is
        length = _length(steps, measures)
        for name, amount in list(given.items())[1:]:
            if amount != length[name]:
                raise FieldError(name, f"{amount} and {first}={given[first]} disagree; give one of them")
        return steps

    def every(self) -> tuple[int, int | None, int | None]:
        """Steps between log lines, evaluations and checkpoints of a resolved config."""
        log, evaluate, checkpoint = (whole_steps(getattr(self, name)) for name in INTERVALS)
        assert log is not None
        return log, evaluate, checkpoint


def _length(steps: int, measures: Measures) -> dict[str, Any]:
    """A run's length as its config states it; not in epochs, which nobody could check without the data."""
    examples = steps * measures.batch_size
    return {"steps": steps, "tokens": examples * measures.sequence_length, "examples": examples, "epochs": None}
