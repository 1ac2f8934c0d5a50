# SPDX-License-Identifier: Apache-2.0
"""Fits a scaling law to points and writes fit.json, pictures and report.html.

python scripts/fit.py --points=points.csv --out=fit
python scripts/fit.py --points=SWEEP_DIR --out=SWEEP_DIR/fit --law=best --bootstrap=4000
python scripts/fit.py --points=SWEEP_DIR --out=SWEEP_DIR/fit --coverage
python scripts/fit.py --points=SWEEP_A --against=SWEEP_B --out=comparison
python scripts/fit.py --points=SWEEP_DIR --out=SWEEP_DIR/fit --law=best --known=MARKOV_SWEEP_DIR
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: on 5 x 5 matrices threads only wait for one another

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with, unknown_name
from t5x_like.files import make_folder
from t5x_like.reporting.painter import Painter
from t5x_like.scaling.analysis import analyses
from t5x_like.scaling.analysis.leaderboard import leaderboard
from t5x_like.scaling.fitting.fit import BOOTSTRAP, HUBER_DELTA, Fit, check_options, fit_scaling_law
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.fitting.weights import WEIGHTS
from t5x_like.scaling.laws.catalogue import LAWS, get_law
from t5x_like.scaling.report import report as reports
from t5x_like.scaling.report import summary
from t5x_like.scaling.report.analysis_sections import tables_for_terminal
from t5x_like.scaling.report.report import PARAMETER_HEAD, start_pictures, write_report
from t5x_like.scaling.uncertainty.intervals import METHODS

SIMULATIONS = 200


def _flags() -> argparse.Namespace:
    parser = Parser(__doc__, required=("points", "out"))
    add = parser.add_argument
    add("--points", metavar="PATH", help="a points.csv, or a sweep's folder")
    add("--out", metavar="DIR", help="where fit.json, report.html and the pictures go")
    add("--law", default="chinchilla", help=f"best, or one of {', '.join(LAWS)} (default: %(default)s)")
    add("--huber_delta", default=HUBER_DELTA, help="threshold on log-loss residuals, or auto (default: %(default)s)")
    add("--bootstrap", type=int, default=BOOTSTRAP, metavar="N", help="replicates for intervals (default: %(default)s)")
    add(
        "--interval_method", metavar="NAME", help=f"{', '.join(METHODS)} (default: wild, or what --coverage finds best)"
    )
    add("--residual", default="log", metavar="NAME", help="of losses: log, or raw for nats (default: %(default)s)")
    add(
        "--overestimate_penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="how many times a run below the law counts; 10 where some runs are badly tuned (default: 1)",
    )
    add("--weights", default="equal", metavar="NAME", help=f"{' or '.join(WEIGHTS)} (default: %(default)s)")
    add(
        "--coverage",
        type=int,
        nargs="?",
        const=SIMULATIONS,
        default=0,
        metavar="N",
        help=f"simulate this design N times ({SIMULATIONS} without a number) to see which intervals cover",
    )
    add(
        "--frontier",
        action=argparse.BooleanOptionalAction,
        help="fit the runs alone that none beats which took as little compute",
    )
    add("--against", metavar="PATH", help="points of another arm, to compare compute at equal loss")
    add(
        "--by_family",
        nargs="?",
        const="",
        metavar="A,B",
        help="compare two families in the points' column family as arms; by name where there are more",
    )
    add(
        "--known",
        metavar="PATH",
        help="a sweep on a process of known entropy: its fitted E is shown beside the exact one",
    )
    add("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add("--params_column", metavar="NAME", help="the column that counts the parameters, if not params")
    add("--columns", metavar="A=B,...", help="what the points call their columns: params=N,tokens=D,loss=val_loss")
    add("--units", metavar="U", help="of params and tokens: k, M, B or T (default: they are counts)")
    add("--strict", action="store_true", help="refuse rows with a missing number instead of leaving them out")
    flags = parser.read()
    if flags.coverage < 0 or 0 < flags.coverage < 20:
        parser.error(f"--coverage={flags.coverage}: expected at least 20 simulations")
    if flags.against and flags.by_family is not None:
        parser.error("--against and --by_family: one of them; either says what the other arm is")
    return flags


def main() -> None:
    flags = _flags()
    if flags.law != "best":  # mistakes are told before anything is written
        get_law(flags.law)
    check_options(**_options(flags, flags.interval_method or "wild"))
    points = _read(flags, flags.points)
    points = points.on_frontier() if flags.frontier else points
    points, other, names = _arms(flags, points)
    known = _read(flags, flags.known) if flags.known else None
    if known is not None and known.exact_entropy is None:
        raise UserError(
            f"--known={flags.known}: the entropy of its source is not known; accepted: a sweep on a process"
        )
    out = make_folder(flags.out, "--out")
    quiet = not sys.stderr.isatty()
    with Painter(out, workers=1) as painter:
        with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bar:
            fit = _fit(flags, points, painter, _telling(bar))
            more = []
            if flags.law == "best" and fit.law.name != "chinchilla":
                beside = fit_scaling_law(points, "chinchilla", **_options(flags, fit.interval_method))
                more.append(reports.same_points(beside, fit))
                fit = fit.with_analyses(beside=reports.in_short(beside))
            if known is not None:
                law = leaderboard(known)["best"] or "chinchilla"
                checked = fit_scaling_law(known, law, **_options(flags, fit.interval_method))
                more.append(reports.known_source(checked))
                fit = fit.with_analyses(known_source=reports.in_short(checked))
            if other is not None:
                rival = fit_scaling_law(other, fit.law, **_options(flags, fit.interval_method))
                fit = fit.with_analyses(comparison=_compared(fit, rival, names))
                more.append(reports.other_arm(rival, names[1], names[0]))
        report = write_report(fit, out, command=shlex.join(["python", *sys.argv]), painter=painter, extra=more)
    console = Console()
    _print(console, fit)
    for section in more:
        console.print(f"\n{section.title}", style="bold", highlight=False, markup=False)
        for sentence in section.sentences:
            console.print(sentence, highlight=False, markup=False)
    console.print(f"report: {report}", soft_wrap=True, highlight=False, markup=False)


def _read(flags: argparse.Namespace, path: str) -> Points:
    pairs = [pair.partition("=") for pair in (flags.columns or "").split(",") if pair]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise UserError(f"--columns={flags.columns}: {wrong[0]!r} names no column; expected params=N,tokens=D,...")
    named = {name.strip(): column.strip() for name, _, column in pairs}
    return read_points(path, flags.params_column, columns=named, units=flags.units, strict=flags.strict)


def _arms(flags: argparse.Namespace, points: Points) -> tuple[Points, Points | None, tuple[str, str]]:
    """Returns the points to fit, those of the arm to compare with, if any, and what the two are called."""
    if flags.against:
        return points, _read(flags, flags.against), ("A", "B")
    if flags.by_family is None:
        return points, None, ("A", "B")
    from t5x_like.scaling.analysis.compare import by_family  # brings a part of SciPy that few runs need

    arms = by_family(points)
    chosen = flags.by_family.split(",") if flags.by_family else list(arms)
    for name in chosen:
        if name not in arms:
            raise unknown_name("--by_family", name, arms)
    if len(set(chosen)) != 2 or len(chosen) != 2:
        found = f"{len(arms)} families, {', '.join(arms)}"
        raise UserError(f"--by_family: {found}; two can be compared: --by_family={','.join(list(arms)[:2])}")
    first, second = chosen
    return arms[first], arms[second], (first, second)


def _compared(fit: Fit, rival: Fit, names: tuple[str, str]) -> dict[str, Any]:
    """The comparison of two arms, or why there is none."""
    try:
        return fit.compare(rival, names=names).to_json()
    except UserError as error:
        return {"names": names, "verdict": f"No comparison: {error}.", "rows": [], "paired": None, "warnings": []}


def _telling(bar: Progress) -> analyses.Progress:
    tasks: dict[str, TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    return progress


def _options(flags: argparse.Namespace, method: str) -> dict[str, Any]:
    return {
        "huber_delta": _threshold(flags.huber_delta),
        "bootstrap": flags.bootstrap,
        "interval_method": method,
        "weights": flags.weights,
        "residual": flags.residual,
        "overestimate_penalty": flags.overestimate_penalty,
        "seed": flags.seed,
    }


def _threshold(text: str | float) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _fit(flags: argparse.Namespace, points: Points, painter: Painter, progress: analyses.Progress) -> Fit:
    """Fits, ranks, and, if asked to, simulates; intervals by the method that covers here unless one was named."""
    ranking = None
    if flags.law == "best":
        delta = _threshold(flags.huber_delta)
        ranking = leaderboard(points, delta=delta, progress=lambda done, total: progress("leaderboard", done, total))
        if ranking["best"] is None:
            raise UserError(f"--law=best: no law can be fitted: {'; '.join(ranking['refused'].values())}")
    law = ranking["best"] if ranking else flags.law
    told: dict[str, Any] = {"progress": lambda done, total: progress("bootstrap", done, total)}
    fit = fit_scaling_law(points, law, **_options(flags, flags.interval_method or "wild"), **told)
    found = {}
    if flags.coverage:
        simulated, best = analyses.coverage(fit, flags.coverage, progress)
        found["coverage"] = simulated.analyses["coverage"]
        if flags.interval_method is None and best != fit.interval_method:
            fit = fit_scaling_law(points, law, **_options(flags, best), **told)
    start_pictures(fit, painter)  # beside what follows
    analysed = analyses.analyse(fit, ranking, progress, done=lambda fit: start_pictures(fit, painter))
    return analysed.with_analyses(**found)


def _print(console: Console, fit: Fit) -> None:
    console.print(f"{fit.law.target} = {summary.equation(fit)}", soft_wrap=True, highlight=False, style="bold")
    _print_table(console, PARAMETER_HEAD, summary.parameter_rows(fit))
    for sentence in summary.findings(fit):
        console.print(sentence, highlight=False, markup=False)
    for table in tables_for_terminal(fit):
        console.print(f"\n{table.title}", style="bold", highlight=False, markup=False)
        _print_table(console, table.head, table.rows)
    if found := fit.analyses.get("comparison"):
        for sentence in (found["verdict"], *found["warnings"]):
            console.print(sentence, highlight=False, markup=False)
    if "coverage" in fit.analyses:
        for sentence in analyses.coverage_sentences(fit.analyses["coverage"]):
            console.print(sentence, highlight=False, markup=False)
    for sentence in fit.points.notes:
        console.print(f"note: {sentence}", highlight=False, markup=False)
    for sentence in fit.warnings:
        console.print(f"warning: {sentence}", highlight=False, markup=False, style="yellow")


def _print_table(console: Console, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in head:
        table.add_column(title, justify="left" if title == head[0] else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)


if __name__ == "__main__":
    exit_with(main)
