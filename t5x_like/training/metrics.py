# SPDX-License-Identifier: Apache-2.0
"""What a run counts and where it writes that: metrics.jsonl and trackers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from t5x_like.training.run_folder import MetricsFile
from t5x_like.training.trackers import Tracker


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
    spent: dict[str, float] = field(default_factory=dict)  # seconds by part, see `stopwatch.py`
    energy_kwh: float | None = 0.0  # None: not known
    lineage: dict[str, Any] | None = None  # the run whose first steps these are, and how many; see `trunk.py`

    def add(self, sums: Mapping[str, tuple[float, float]], tokens: int) -> None:
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


class Metrics:
    """Writes log lines, to trackers too; only the first process does."""

    def __init__(
        self, folder: Path, tally: Tally, flops_per_token: float, peak: float | None, trackers: Sequence[Tracker] = ()
    ):
        self._writes = jax.process_index() == 0
        self._flops_per_token, self._peak = flops_per_token, peak
        self._trackers = trackers
        if self._writes:
            self._file = MetricsFile(folder, tally.step)

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
        if self._trackers:
            numbers = {f"{group}/{name}": value for name, value in line.items() if isinstance(value, int | float)}
            numbers.pop(f"{group}/step")
            for tracker in self._trackers:
                tracker.scalars(numbers, tally.step)
        return line

    def close(self) -> None:
        if self._writes:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()
