# SPDX-License-Identifier: Apache-2.0
"""Holds a finished run against the law that predicted it, and fits the law again with that run among its points.

python scripts/compare.py --run=runs/next --fit=runs/quickstart/fit
python scripts/compare.py --run=runs/next --fit=runs/quickstart/fit --out=runs/next/fit

With --out the new law's fit.json, pictures and report.html go there, and the verdict as compare.json.
"""

import os
import shlex
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.files import make_folder, write_json
from t5x_like.reporting.wording import count, figure, percent, span
from t5x_like.scaling.analysis.verdict import Verdict, verdict
from t5x_like.scaling.fitting.fit import BOOTSTRAP
from t5x_like.scaling.fitting.saved import SavedFit, read_fit
from t5x_like.scaling.report.report import write_report


def main() -> None:
    parser = Parser(__doc__, required=("run", "fit"))
    parser.add_argument("--run", metavar="DIR", help="the folder of a run that has finished")
    parser.add_argument("--fit", metavar="PATH", help="a fit.json, or the folder that fit.py wrote it into")
    parser.add_argument("--out", metavar="DIR", help="where the new law goes (default: nowhere)")
    parser.add_argument("--bootstrap", type=int, default=BOOTSTRAP, metavar="N", help="(default: %(default)s)")
    flags = parser.read()
    before = read_fit(flags.fit)
    found = verdict(before, flags.run, flags.bootstrap)
    console = Console()
    told = told_of(found, flags.run)
    for sentence in told:
        console.print(sentence, highlight=False, markup=False)
    console.print(_table(before, found), highlight=False)
    if flags.out:
        out = make_folder(flags.out, "--out")
        write_report(found.law, out, command=shlex.join(["python", *sys.argv]))
        said = found.prediction
        write_json(
            Path(out) / "compare.json",
            {
                "run": flags.run,
                "params": found.params,
                "tokens": found.tokens,
                "loss": found.loss,
                "predicted": said.loss,
                "interval": [said.low, said.high],
                "inside": found.inside,
                "relative_error": found.error,
                "times_largest": found.times_largest,
                "verdict": told,
            },
        )
        console.print(f"report: {out}/report.html", soft_wrap=True, highlight=False, markup=False)


def told_of(found: Verdict, run: str) -> list[str]:
    """What became of the prediction, in words."""
    said = found.prediction
    where = "inside" if found.inside else "outside"
    return [
        f"{run}: {count(found.params)} params on {count(found.tokens)} tokens, {figure(found.times_largest)} times the "
        "largest compute of the law's points.",
        f"Held-out loss {figure(found.loss, 4)} nats per token; predicted {figure(said.loss, 4)} "
        f"({figure(said.low, 4)} to {figure(said.high, 4)}): {where} the interval, "
        f"{percent(found.error, signed=True)} off.",
    ]


def _table(before: SavedFit, found: Verdict) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("parameter", "law", "with this run", "95 % interval"):
        table.add_column(title, justify="left" if title == "parameter" else "right")
    for name, value in found.law.parameters.items():
        table.add_row(name, figure(before.parameters[name], 4), figure(value, 4), span(found.law.intervals.get(name)))
    return table


if __name__ == "__main__":
    exit_with(main)
