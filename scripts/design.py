# SPDX-License-Identifier: Apache-2.0
"""Chooses the cells of a sweep that narrow one quantity most for a budget, and says how well, before a single run.

python scripts/design.py --budget=3e13 --narrow=alpha
python scripts/design.py --budget=3e13 --narrow=prediction --at=1e6:2e7 --prior=runs/markov/fit --out=runs/design
python scripts/design.py --check=points.csv --narrow=E
python scripts/design.py --check=4x4 --narrow=E --params=1e4:1e6 --tokens=2e5:4e6
"""

import argparse
import dataclasses
import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: on 5 x 5 matrices threads only wait for one another

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import make_folder
from t5x_like.scaling.design import design
from t5x_like.scaling.design import summary as design_summary
from t5x_like.scaling.design.cells import PARAMS, TOKENS, At, Cells, levels, number, place, read_cells
from t5x_like.scaling.design.prior import NOISE, Belief, belief_from, prior_over, question
from t5x_like.scaling.design.search import Limits
from t5x_like.scaling.fitting.fit import HUBER_DELTA

PATIENCE = 2.0  # seconds before a progress bar is worth its place


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__, required=("narrow",))
    add = parser.add_argument
    add("--budget", metavar="FLOPS", help="of all runs together, 6 params tokens each")
    add("--narrow", metavar="NAME", help="a parameter of the law, a, N*, D*, tokens_per_param, or prediction")
    add(
        "--at", metavar="PLACE", help="where it is asked for: FLOPs, or params:tokens (default: the budget, as one run)"
    )
    add("--law", metavar="NAME", help="chinchilla (default), or another law of params and tokens")
    add("--prior", metavar="PRIOR", help="E=1.8,alpha=.35,... or a fit.json (default: small sweeps)")
    add("--noise", metavar="SHARE", help=f"standard deviation of a run's loss over the loss (default: {NOISE})")
    add(
        "--huber_delta",
        metavar="X",
        help=f"threshold of the fit to come, or auto (default: {HUBER_DELTA}, as in fit.py)",
    )
    add("--params", default=PARAMS, metavar="RANGE", help="low:high or a,b,c (default: %(default)s)")
    add("--tokens", default=TOKENS, metavar="RANGE", help="low:high or a,b,c (default: %(default)s)")
    add("--cells", type=int, default=design.CELLS, metavar="N", help="most runs (default: %(default)s)")
    add("--repeats", type=int, default=design.REPEATS, metavar="N", help="most runs of one cell (default: %(default)s)")
    add(
        "--check",
        metavar="CELLS",
        help="judge these instead: a CSV, a design.json, a grid as 4x4, or params:tokens,...",
    )
    add("--simulate", type=int, default=0, metavar="N", help="confirm by simulating N sweeps")
    add("--seed", type=int, default=0, help="of search and simulation (default: %(default)s)")
    add("--out", metavar="PATH", help="where design.json goes; cells.csv and design.png lie beside it")
    flags = parser.read()
    if flags.budget is None and flags.check is None:
        parser.error("missing: --budget=FLOPS, or --check=CELLS to judge a design")
    for name, least in (("repeats", 1), ("cells", 1), ("seed", 0)):
        if getattr(flags, name) < least:
            parser.error(f"--{name}={getattr(flags, name)}: expected {least} or more")
    if flags.simulate != 0 and flags.simulate < 20:
        parser.error(f"--simulate={flags.simulate}: expected at least 20")
    return flags


def main() -> None:
    flags = _flags()
    params, tokens = levels("params", flags.params), levels("tokens", flags.tokens)
    given = read_cells(flags.check, params, tokens) if flags.check else None
    budget = number("budget", flags.budget) if flags.budget else math.inf
    chosen_from = (given.params, given.tokens) if given else (params, tokens)
    prior = prior_over(_belief(flags), given or Cells.product(params, tokens))
    at = place(flags.at) if flags.at else At(given.cost if given and not flags.budget else budget)
    asked = question(prior.law, flags.narrow, at)
    path = Path(flags.out) if flags.out else None
    if path:
        path = path if path.suffix == ".json" else path / "design.json"
        make_folder(path.parent, "--out")
    with _Patient() as progress:
        limits = Limits(budget, flags.cells, flags.repeats)
        cells = given or design.choose(prior, asked, params, tokens, limits, flags.seed, progress)
        plan = design.judge(prior, asked, cells, chosen_from, budget)
        simulated = design.simulate(plan, flags.simulate, flags.seed, progress) if flags.simulate else None
    written = []
    if path:
        command = shlex.join(["python", *sys.argv])
        written = design_summary.write(plan, path, None if given else chosen_from, command, simulated=simulated)
    _print(plan, simulated)
    for file in written:
        print(file)


def _belief(flags: argparse.Namespace) -> Belief:
    belief = belief_from(flags.prior)
    if flags.law and belief.law and flags.law != belief.law:
        raise UserError(f"--law={flags.law}: the prior {flags.prior} is a fit of law {belief.law!r}")
    changes: dict[str, Any] = {}
    if flags.noise:
        changes["noise"] = number("noise", flags.noise)
    if flags.huber_delta:
        auto = flags.huber_delta == "auto"
        changes["huber_delta"] = "auto" if auto else number("huber_delta", flags.huber_delta)
    return dataclasses.replace(belief, law=belief.law or flags.law, **changes)


class _Patient:
    """A progress bar on a terminal that appears only when the work has taken a while."""

    def __enter__(self):
        self._began, self._tasks = time.monotonic(), {}
        self._bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)
        if time.monotonic() - self._began > PATIENCE:
            self._bar.start()

    def __exit__(self, *_) -> None:
        self._bar.stop()


def _print(plan: design.Plan, simulated: dict | None) -> None:
    console = Console()
    say: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    console.print(design_summary.headline(plan), style="bold", **say)
    for sentence in design_summary.findings(plan):
        console.print(sentence, **say)
    for sentence in design_summary.simulated_in_words(plan, simulated) if simulated else ():
        console.print(sentence, **say)
    for sentence in plan.warnings:
        console.print(f"warning: {sentence}", style="yellow", **say)
    _table(console, ("params", "tokens", "tokens per param", "FLOPs a run", "runs"), design_summary.cell_rows(plan))
    _table(console, ("also", "prior", "expected 95 % interval", "within"), design_summary.other_rows(plan))
    console.print(design_summary.prior_in_words(plan), **say)


def _table(console: Console, head, rows) -> None:
    table = Table(box=None, pad_edge=False)
    for title in head:
        table.add_column(title, justify="left" if title == "also" else "right")
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table, highlight=False)


if __name__ == "__main__":
    exit_with(main)
