# SPDX-License-Identifier: Apache-2.0
"""Fits a scaling law to points and writes fit.json, pictures and report.html.

python scripts/fit.py --points=points.csv --out=fit
python scripts/fit.py --points=SWEEP_DIR --out=SWEEP_DIR/fit --bootstrap=4000
"""

import argparse
import os
import shlex
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: on 5 x 5 matrices threads only wait for one another

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.scaling import summary
from t5x_like.scaling.catalogue import LAWS
from t5x_like.scaling.fit import BOOTSTRAP, HUBER_DELTA, Fit, fit_scaling_law
from t5x_like.scaling.points import read_points
from t5x_like.scaling.report import prepare_folder, write_report


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__, required=("points", "out"))
    add = parser.add_argument
    add("--points", metavar="PATH", help="a points.csv, or a sweep's folder")
    add("--out", metavar="DIR", help="where fit.json, report.html and the pictures go")
    add("--law", default="chinchilla", help=f"one of {', '.join(LAWS)} (default: %(default)s)")
    add("--huber_delta", type=float, default=HUBER_DELTA, help="threshold on log-loss residuals (default: %(default)s)")
    add("--bootstrap", type=int, default=BOOTSTRAP, metavar="N", help="replicates for intervals (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--params_column", metavar="NAME", help="the column that counts the parameters, if not params")
    return parser.read()


def main() -> None:
    flags = _flags()
    points = read_points(flags.points, flags.params_column)
    out = prepare_folder(flags.out)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("bootstrap", total=flags.bootstrap or None)
        fit = fit_scaling_law(
            points,
            flags.law,
            huber_delta=flags.huber_delta,
            bootstrap=flags.bootstrap,
            seed=flags.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    report = write_report(fit, out, command=shlex.join(["python", *sys.argv]))
    console = Console()
    _print(console, fit)
    console.print(f"report: {report}", soft_wrap=True, highlight=False, markup=False)


def _print(console: Console, fit: Fit) -> None:
    console.print(f"loss = {summary.equation(fit)}", soft_wrap=True, highlight=False, style="bold")
    table = Table(box=None, pad_edge=False)
    for title in ("parameter", "estimate", "95 % interval"):
        table.add_column(title, justify="left" if title == "parameter" else "right")
    for row in summary.parameter_rows(fit):
        table.add_row(*row)
    console.print(table, highlight=False)
    for sentence in summary.findings(fit):
        console.print(sentence, highlight=False, markup=False)
    for sentence in fit.warnings:
        console.print(f"warning: {sentence}", highlight=False, markup=False, style="yellow")


if __name__ == "__main__":
    exit_with(main)
