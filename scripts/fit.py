# SPDX-License-Identifier: Apache-2.0
"""Fits a scaling law to points and writes fit.json, pictures and report.html.

    python scripts/fit.py --points=points.csv --out=fit
    python scripts/fit.py --points=SWEEP_DIR --out=SWEEP_DIR/fit --bootstrap=4000
"""

import argparse
import shlex
import sys
from typing import NoReturn

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from t5x_like.errors import UserError, exit_with, nearest
from t5x_like.scaling import summary
from t5x_like.scaling.fit import BOOTSTRAP, HUBER_DELTA, Fit, fit_scaling_law
from t5x_like.scaling.laws import LAWS
from t5x_like.scaling.report import prepare_folder, write_report


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag, instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        hint = nearest(unknown[0], flags) if message.startswith("unrecognized") and unknown else ""
        raise UserError(f"{message}{hint} (--help lists the flags)")


def _flags() -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--points", required=True, metavar="PATH", help="a points.csv, or a sweep's folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="where fit.json, report.html and the pictures go")
    parser.add_argument("--law", default="chinchilla", help=f"one of {', '.join(LAWS)} (default: %(default)s)")
    parser.add_argument(
        "--huber_delta", type=float, default=HUBER_DELTA, help="Huber threshold on log-loss residuals (default: %(default)s)"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=BOOTSTRAP, metavar="N", help="replicates for the intervals (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--params_column", help="the column that counts the parameters, if not params")
    return parser.parse_args()


def main() -> None:
    flags = _flags()
    out = prepare_folder(flags.out)
    console = Console()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("bootstrap", total=flags.bootstrap or None)
        fit = fit_scaling_law(
            flags.points,
            flags.law,
            huber_delta=flags.huber_delta,
            bootstrap=flags.bootstrap,
            seed=flags.seed,
            params_column=flags.params_column,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    report = write_report(fit, out, command=shlex.join(["python", *sys.argv]))
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
