# SPDX-License-Identifier: Apache-2.0
"""Draws charts into files, here or in processes beside this one, so that a program can go on computing meanwhile."""

from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from t5x_like.files import write_bytes
from t5x_like.reporting.charts import Chart
from t5x_like.worker_processes import worker_processes

FORMATS = ("png", "svg", "pdf")


class Painter:
    """Writes NAME.png, NAME.svg and NAME.pdf of charts into a folder; at exit, what was not begun is dropped."""

    def __init__(self, folder: Path, workers: int = 0):
        """Starts workers; with none of them, charts are drawn here, when they are given."""
        self.folder = folder
        self._jobs: dict[str, Future[None] | None] = {}
        self._pool = worker_processes(workers) if workers else None
        if self._pool:
            self._pool.submit(_load)  # processes start with the first job

    def __enter__(self) -> "Painter":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def paint(self, charts: Iterable[Chart], about: str) -> None:
        """Draws charts, or hands them to the workers; one of a name that was given before is passed over.
        `about` says where the numbers come from, for the files' metadata."""
        for chart in charts:
            if chart.name in self._jobs:
                continue
            if self._pool:
                self._jobs[chart.name] = self._pool.submit(_paint, chart, about, self.folder)
            else:
                self._jobs[chart.name] = None
                _paint(chart, about, self.folder)

    def finish(self) -> None:
        """Waits until everything is drawn. Raises RuntimeError: a worker failed; the message ends with what it said."""
        for name, job in self._jobs.items():
            if job and (error := job.exception()):
                told = f"{type(error).__name__}: {error}"
                raise RuntimeError(f"drawing {name} into {self.folder} failed: {told}") from error


def _paint(chart: Chart, about: str, folder: Path) -> None:
    from t5x_like.reporting import draw_matplotlib

    figure = draw_matplotlib.draw(chart)
    for kind in FORMATS:
        write_bytes(folder / f"{chart.name}.{kind}", draw_matplotlib.save(figure, kind, chart.name, about))


def _load() -> None:
    import t5x_like.reporting.draw_matplotlib  # noqa: F401  this is what takes a second
