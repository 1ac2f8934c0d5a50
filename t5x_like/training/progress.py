# SPDX-License-Identifier: Apache-2.0
"""How a run tells its progress: a bar on a terminal, plain lines otherwise, nothing in a worker."""

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter(Protocol):
    """What the training loop tells; here it tells nobody."""

    def start(self, step: int, total: int) -> None:
        return

    def update(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        return

    def note(self, text: str) -> None:
        return

    def close(self) -> None:
        return


class Silent(Reporter):
    """Tells nothing."""


class Bar:
    """A progress bar with loss, tokens a second and time left."""

    def __init__(self, console: Console):
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} tokens/s "),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", loss="-", rate="-")

    def start(self, step: int, total: int) -> None:
        self._progress.update(self._task, completed=step, total=total)
        self._progress.start()

    def update(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        rate = "-" if tokens_per_second is None else f"{tokens_per_second:,.0f}"
        self._progress.update(self._task, completed=step, loss=f"{loss:.4f}", rate=rate)

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def close(self) -> None:
        self._progress.stop()


class Lines(Silent):
    """Plain lines, at most one every few seconds, and always the first and the last."""

    def __init__(self, seconds: float = 5.0):
        self._seconds, self._told, self._total = seconds, -float("inf"), 0

    def start(self, step: int, total: int) -> None:
        self._total = total
        self._first: tuple[int, float] | None = None

    def update(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        now = time.monotonic()
        self._first = self._first or (step, now)  # time left is told from here: what came before was compiled first
        if now - self._told < self._seconds and step < self._total:
            return
        self._told = now
        rate = "" if tokens_per_second is None else f"  {tokens_per_second:,.0f} tokens/s"
        first, began = self._first
        left = f"  {(now - began) * (self._total - step) / (step - first):.0f} s left" if step > first else ""
        print(f"step {step}/{self._total}  loss {loss:.4f}{rate}{left}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def reporter() -> Reporter:
    """A bar when standard output is a terminal, lines otherwise."""
    return Bar(Console()) if sys.stdout.isatty() else Lines()
