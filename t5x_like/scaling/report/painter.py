# SPDX-License-Identifier: Apache-2.0
"""Draws charts into files, here or in processes beside this one, so that a program can go on computing meanwhile.

A worker is `python -m t5x_like.scaling.report.painter FOLDER`: it reads pickled charts from standard input to its end.
Charts are plain data, so it needs neither the fit nor SciPy, and loads matplotlib while the fit is still at work.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from t5x_like.files import write_bytes
from t5x_like.scaling.report.charts import Chart

FORMATS = ("png", "svg", "pdf")


class Painter:
    """Writes NAME.png, NAME.svg and NAME.pdf of charts into a folder.

    As a context manager it stops its workers when something goes wrong.
    """

    def __init__(self, folder: Path, workers: int = 0):
        """Starts workers; with none of them, charts are drawn here, when they are given."""
        self.folder = folder
        self._given: set[str] = set()
        self._workers = [_Worker(folder) for _ in range(workers)]

    def __enter__(self) -> "Painter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.stop()

    def paint(self, charts: Iterable[Chart], about: str) -> None:
        """Draws charts, or hands them to the workers in turn; one of a name that was given before is passed over.

        Args:
          charts: what to draw.
          about: where the numbers come from, for the files' metadata.
        """
        for chart in charts:
            if chart.name in self._given:
                continue
            if self._workers:
                self._workers[len(self._given) % len(self._workers)].give(chart, about)
            else:
                _paint(chart, about, self.folder)
            self._given.add(chart.name)

    def finish(self) -> None:
        """Waits until everything is drawn.

        Raises:
          RuntimeError: a worker failed; the message ends with what it said.
        """
        for worker in self._workers:
            worker.finish()
        self._workers = []


class _Worker:
    """A process that draws, and a thread that feeds it: a chart is larger than a pipe, and the worker wakes slowly."""

    def __init__(self, folder: Path):
        self._folder = folder
        root = str(Path(__file__).parents[2])  # a worker finds this very package, installed or not
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "t5x_like.scaling.report.painter", str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._jobs: queue.SimpleQueue[tuple[Chart, str] | None] = queue.SimpleQueue()
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def give(self, chart: Chart, about: str) -> None:
        self._jobs.put((chart, about))

    def finish(self) -> None:
        self._jobs.put(None)
        assert self._process.stderr is not None
        told = self._process.stderr.read().decode(errors="replace").strip()
        self._feeder.join()
        self._process.stderr.close()
        if code := self._process.wait():
            raise RuntimeError(f"drawing pictures into {self._folder} failed (exit code {code}):\n{told}")

    def stop(self) -> None:
        """Ends the process, whatever it is at."""
        if self._process.poll() is None:
            self._process.kill()
        self._jobs.put(None)
        self._feeder.join()
        self._process.wait()

    def _feed(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, and `finish` says of what
            while (job := self._jobs.get()) is not None:
                pickle.dump(job, pipe)
                pipe.flush()
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _paint(chart: Chart, about: str, folder: Path) -> None:
    from t5x_like.scaling.report import draw_matplotlib

    figure = draw_matplotlib.draw(chart)
    for kind in FORMATS:
        write_bytes(folder / f"{chart.name}.{kind}", draw_matplotlib.save(figure, kind, chart.name, about))


def _work(folder: Path, jobs: BinaryIO) -> None:
    from t5x_like.scaling.report import draw_matplotlib  # before the first job: this is what takes a second

    draw_matplotlib.warm()
    while True:
        try:
            chart, about = pickle.load(jobs)
        except EOFError:
            return
        _paint(chart, about, folder)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the program, which then ends this
    _work(Path(sys.argv[1]), sys.stdin.buffer)
