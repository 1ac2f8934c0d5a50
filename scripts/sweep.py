# SPDX-License-Identifier: Apache-2.0
"""Trains every cell of a sweep that is missing and writes points.csv.

python scripts/sweep.py --config=configs/sweeps/markov.py --workdir=runs/markov
python scripts/sweep.py --config=configs/sweeps/markov.py --workdir=/shared/markov --engine=ray
python scripts/sweep.py --config=... --workdir=/shared/runs --engine=slurm --slurm.slurm_partition=gpu
"""

import signal
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.sweeps.design import Cell, cells, load_sweep
from t5x_like.sweeps.engines import ENGINES
from t5x_like.sweeps.execute import run_sweep


class _Reporter:
    """A line for every cell that ends; on a terminal a bar over the work of the whole sweep as well."""

    def __init__(self) -> None:
        self._console = Console()
        self._bar = Progress(
            TextColumn("{task.fields[cells]} cells"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._began = time.monotonic()

    def start(self, done: float, total: float, finished: int, number: int) -> None:
        self._finished, self._number, self._total = finished, number, total
        self._at_start = self._done = done
        self._task = self._bar.add_task("", total=total, cells=f"{finished}/{number}")
        self._bar.update(self._task, completed=done)
        self._bar.start()
        self._print(f"{number} cells, {finished} of them already there")

    def progress(self, done: float) -> None:
        self._bar.update(self._task, completed=done, cells=f"{self._finished}/{self._number}")
        self._done = done

    def cell(self, cell: Cell, status: str, loss: float | None, seconds: float) -> None:
        self._finished += status != "failed"
        result = status if loss is None else f"held-out loss {loss:.4f}"
        self._print(f"[{self._finished}/{self._number}] {cell.run}: {result}, {seconds:.0f} s{self._left()}")

    def _left(self) -> str:
        if self._console.is_terminal:
            return ""  # the bar says it
        rate = (self._done - self._at_start) / (time.monotonic() - self._began)
        return (
            f", about {(self._total - self._done) / rate:.0f} s left" if rate > 0 and self._done < self._total else ""
        )

    def _print(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        self._bar.stop()


def main() -> int:
    parser = Parser(__doc__, required=("config", "workdir"))
    parser.add_argument("--config", metavar="FILE", help="a sweep's config; --config.field=value changes a field")
    parser.add_argument("--workdir", metavar="DIR", help="the sweep folder; cells already there are not run again")
    parser.add_argument("--workers", type=int, metavar="N", help="cells at a time (default: what there is room for)")
    parser.add_argument("--engine", default="local", help=f"{', '.join(ENGINES)} (default: %(default)s)")
    words = [word.removeprefix("--slurm.").partition("=") for word in sys.argv if word.startswith("--slurm.")]
    sys.argv = [word for word in sys.argv if not word.startswith("--slurm.")]
    flags, overrides = parser.read_with_overrides()
    if words and flags.engine != "slurm":
        parser.error(f"--slurm.{words[0][0]}: is for --engine=slurm, and the engine is {flags.engine!r}")
    if bare := [name for name, sign, _ in words if not sign]:
        parser.error(f"--slurm.{bare[0]}: has no value; accepted: --slurm.{bare[0]}=VALUE")
    workdir = parser.local_folder("workdir", flags.workdir)
    if flags.workers is not None and flags.workers < 1:
        parser.error(f"--workers={flags.workers}: expected 1 or more")
    slurm = {name: int(text) if text.isdigit() else text for name, _, text in words}
    sweep = load_sweep(flags.config, overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as ctrl-C, even where a shell's & has that ignored
    reporter = _Reporter()
    try:
        errors = run_sweep(sweep, workdir, reporter, flags.workers, flags.engine, slurm)
    finally:
        reporter.close()
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if sweep.trunks:
        design = cells(sweep)
        apart, saved = sum(cell.flops for cell in design), sum(cell.flops * (1 - cell.own) for cell in design)
        print(f"first steps that runs share: {saved / apart:.0%} of {apart:.3g} FLOPs saved")
    print(f"points: {flags.workdir}/points.csv")
    return 1 if errors else 0


if __name__ == "__main__":
    exit_with(main)
