# SPDX-License-Identifier: Apache-2.0
"""What a run counts and where it writes that: metrics.jsonl and TensorBoard."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from t5x_like.training.run_folder import MetricsFile


@dataclasses.dataclass
class Tally:
    """Everything that the loop counts; kept in checkpoints, so that a resumed run logs what an unbroken one would.

    Attributes:
      step: steps whose metrics have come back.
      tokens: target tokens consumed, without padding.
      wall_seconds: time spent on the run, over all its sessions.
      interval: {name: [sum, weight]} since the last log point.
      last_eval: the newest held-out evaluation and its step.
    """

    step: int = 0
    tokens: int = 0
    wall_seconds: float = 0.0
    interval: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    last_eval: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, sums: dict[str, tuple[float, float]]) -> None:
        """Counts one step."""
        self.step += 1
        self.tokens += round(sums["loss"][1])
        for name, (value, weight) in sums.items():
            total = self.interval.setdefault(name, [0.0, 0.0])
            total[0] += value
            total[1] += weight

    def take_means(self) -> dict[str, float]:
        """Returns the means since the last log point and starts the next interval."""
        means = {name: value / max(weight, 1e-30) for name, (value, weight) in self.interval.items()}
        self.interval = {}
        return means

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Metrics:
    """Writes log lines; only the first process does."""

    def __init__(self, folder: Path, tally: Tally, flops_per_token: float, peak: float | None, tensorboard: bool):
        self._writes = jax.process_index() == 0
        self._flops_per_token, self._peak = flops_per_token, peak
        if self._writes:
            self._file = MetricsFile(folder, tally.step)
            self._board = (
                SummaryWriter(str(folder / "tensorboard"), purge_step=tally.step + 1, write_to_disk=True)
                if tensorboard
                else None
            )
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what happened until now (compilation, an evaluation) out of the next rate."""
        self._clock: float | None = None

    def rate(self, tokens: float) -> float | None:
        """Tokens a second of a call that has just come back, since the one before it; None for the first.

        All lines of a call share it: its steps come back together, so there is nothing to time between them.
        """
        now, before = time.monotonic(), self._clock
        self._clock = now
        return None if before is None or now == before else tokens / (now - before)

    def train(self, tally: Tally, learning_rate: float, rate: float | None) -> dict[str, Any]:
        """Writes the means since the last log point, with the `rate` of the call; returns the line."""
        line = {
            **self._counts(tally, "train"),
            **tally.take_means(),
            "learning_rate": learning_rate,
            "tokens_per_second": rate,
            "mfu": None if rate is None or self._peak is None else rate * self._flops_per_token / self._peak,
        }
        self._write(line)
        return line

    def eval(self, tally: Tally, result: dict[str, float]) -> None:
        """Writes a held-out evaluation."""
        self._write({**self._counts(tally, "eval"), **result})

    def _counts(self, tally: Tally, split: str) -> dict[str, Any]:
        flops = tally.tokens * self._flops_per_token
        return {"step": tally.step, "tokens": tally.tokens, "flops": flops, "split": split}

    def _write(self, line: dict[str, Any]) -> None:
        if not self._writes:
            return
        self._file.write(line)
        if self._board is not None:
            for name, value in line.items():
                if name not in ("step", "split") and value is not None:
                    self._board.add_scalar(f"{line['split']}/{name}", value, line["step"])

    def close(self) -> None:
        if self._writes:
            self._file.close()
            if self._board is not None:
                self._board.close()
