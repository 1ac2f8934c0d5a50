# SPDX-License-Identifier: Apache-2.0
"""What a run counts and where it writes that: metrics.jsonl and TensorBoard."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from t5x_like.training.run_folder import MetricsFile
from t5x_like.training.tensorboard import EventFile


@dataclass
class Tally:
    """Everything that the loop counts; kept in checkpoints, so that a resumed run logs what an unbroken one would."""

    step: int = 0  # steps whose metrics have come back
    tokens: int = 0  # target tokens consumed, without padding
    wall_seconds: float = 0.0  # time spent on the run, over all its sessions
    interval: dict[str, list[float]] = field(default_factory=dict)  # {name: [sum, weight]} since the last log point
    last_eval: dict[str, float] = field(default_factory=dict)  # the newest held-out evaluation and its step
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)  # the same of the further sets, by name
    skipped: int = 0  # steps that changed nothing, for their loss was not finite
    skipped_in_a_row: int = 0
    rewinds: int = 0  # to a checkpoint, for the same reason
    passed_over: int = 0  # batches between those checkpoints and where the loss was not finite
    lineage: dict[str, Any] | None = None  # the run whose first steps these are, and how many; see `trunk.py`

    def add(self, sums: Mapping[str, tuple[float, float]], tokens: int) -> None:
        """Counts one step and the tokens it took."""
        self.step += 1
        self.tokens += tokens
        if "skipped" in sums:
            again = bool(sums["skipped"][0])
            self.skipped += again
            self.skipped_in_a_row = self.skipped_in_a_row + 1 if again else 0
        for name, (value, weight) in sums.items():
            total = self.interval.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += weight

    def take_means(self) -> dict[str, float]:
        """Returns the means since the last log point, NaN where nothing had weight, and starts the next interval."""
        means = {name: value / weight if weight else math.nan for name, (value, weight) in self.interval.items()}
        self.interval = {}
        return means


class Stopwatch:
    """Where the time of a session goes.

    Calls are timed from one's return to the next one's. The first is left out (it is compiled), and so is what lies
    before a `go_on`. Lines of metrics that came back in one call share a rate: its steps end together.

    Attributes:
      calling: seconds of the calls timed.
      waiting: how much of that the loop waited for the compiled step; the rest it was busy itself.
      stalled: how much of that it was busy and, before it sent the next call, found the device with nothing to do.
    """

    def __init__(self) -> None:
        self.calling = self.waiting = self.stalled = 0.0
        self._last: float | None = None
        self._tokens, self._seconds = 0, 0.0

    def sending(self, idle: bool) -> None:
        """Notes whether the device has finished all that was sent to it, just before the next call is sent."""
        if idle and self._last is not None:
            self.stalled += self.now() - self._last

    def returned(self, tokens: int, asked: float) -> None:
        """Counts a call of some tokens that has just come back, waited for since `asked` (on `now`'s clock)."""
        now = self.now()
        if self._last is not None:
            self._tokens += tokens
            self._seconds += now - self._last
            self.calling += now - self._last
            self.waiting += now - max(asked, self._last)
        self._last = now

    def take_rate(self) -> float | None:
        """Tokens a second of the calls since this was last asked; None when none was timed."""
        rate = self._tokens / self._seconds if self._seconds else None
        self._tokens, self._seconds = 0, 0.0
        return rate

    def go_on(self) -> None:
        """Leaves out what happened since the last call came back: an evaluation."""
        self._last = None if self._last is None else self.now()

    @property
    def busy_share(self) -> float | None:
        """The part of the calls' time that the loop was busy itself, mostly while the device was at work."""
        return 1 - self.waiting / self.calling if self.calling else None

    @property
    def stall_share(self) -> float | None:
        """The part of the calls' time in which the device may have waited for the loop: at most that much is lost."""
        return self.stalled / self.calling if self.calling else None

    @staticmethod
    def now() -> float:
        return time.monotonic()


class Metrics:
    """Writes log lines; only the first process does."""

    def __init__(self, folder: Path, tally: Tally, flops_per_token: float, peak: float | None, tensorboard: bool):
        self._writes = jax.process_index() == 0
        self._flops_per_token, self._peak = flops_per_token, peak
        if self._writes:
            self._file = MetricsFile(folder, tally.step)
            self._board = EventFile(folder / "tensorboard", tally.step + 1) if tensorboard else None

    def train(self, tally: Tally, learning_rate: float, rate: float | None) -> dict[str, Any]:
        """Writes the means since the last log point, with the tokens a second of that stretch; returns the line."""
        mfu = None if rate is None or self._peak is None else rate * self._flops_per_token / self._peak
        values = {**tally.take_means(), "learning_rate": learning_rate, "tokens_per_second": rate, "mfu": mfu}
        return self._write(tally, "train", values, "train")

    def eval(self, tally: Tally, result: dict[str, float], dataset: str | None = None) -> None:
        """Writes an evaluation: of the run's own held-out data, or of the further set `dataset`."""
        which = {} if dataset is None else {"dataset": dataset}
        self._write(tally, "eval", {**which, **result}, f"eval/{dataset}" if dataset else "eval")

    def _write(self, tally: Tally, split: str, values: dict[str, Any], group: str) -> dict[str, Any]:
        flops = tally.tokens * self._flops_per_token
        line = {"step": tally.step, "tokens": tally.tokens, "flops": flops, "split": split, **values}
        if self._writes:
            self._file.write(line)
        if self._writes and self._board is not None:
            numbers = {f"{group}/{name}": value for name, value in line.items() if isinstance(value, int | float)}
            numbers.pop(f"{group}/step")
            self._board.scalars(numbers, tally.step)
        return line

    def close(self) -> None:
        if self._writes:
            self._file.close()
            if self._board is not None:
                self._board.close()
