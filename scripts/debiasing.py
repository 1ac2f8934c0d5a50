# SPDX-License-Identifier: Apache-2.0
"""Draws what debiasing costs: of the runs of a sweep over its weight, held-out loss against the pairs' difference.

python scripts/debiasing.py --sweep=runs/debiasing --set=said --out=runs/debiasing

Writes OUT/tradeoff.png, .svg and .pdf, and prints their numbers. Each weight is a mean over seeds; pairs are held out.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with, unknown_name
from t5x_like.files import make_folder, read_json
from t5x_like.reporting.charts import Axis, Chart, Line, Marks, Panel
from t5x_like.reporting.painter import Painter
from t5x_like.reporting.watching import watched
from t5x_like.reporting.wording import figure, percent

NAMES = ("loss", "pair_gap", "pair_preference")


def main() -> None:
    parser = Parser(__doc__, required=("sweep", "out"))
    parser.add_argument("--sweep", metavar="DIR", help="a sweep's folder, or a run's")
    parser.add_argument(
        "--set", default="", metavar="NAME", help="whose loss is shown (default: the run's held-out data)"
    )
    parser.add_argument("--out", metavar="DIR", help="where the picture is written")
    flags = parser.read()
    found = by_weight(flags.sweep, flags.set)
    out = make_folder(parser.local_folder("out", flags.out), "--out")
    table = Table("weight", "runs", "loss", "difference of ln p, rms", "prefers the stereotype")
    for weight, values in found.items():
        loss, gap, preference = values.mean(0)
        table.add_row(f"{weight:g}", str(len(values)), figure(loss, 4), figure(math.sqrt(gap)), percent(preference))
    Console(width=None).print(table)
    Painter(out).paint([tradeoff(found)], f"t5x_like, {flags.sweep}")
    print(f"written: {out / 'tradeoff.png'}")


def by_weight(folder: str, name: str = "") -> dict[float, np.ndarray]:
    """{weight: NAMES of each of its finished runs, [runs, 3]}: held out; the loss maybe of a named set."""
    found: dict[float, list[list[float]]] = {}
    for run in watched([folder]):
        run.read()
        objective: dict[str, Any] = read_json(Path(run.folder) / "config.json")["objective"]
        last = [run.curve(name, "eval")[1] for name in NAMES]
        if name and run.status == "finished":
            sets = read_json(Path(run.folder) / "summary.json").get("evaluations", {})
            if name not in sets:
                raise unknown_name("--set", name, sets)
            last[0] = [sets[name]["loss"]]
        if objective["kind"] == "debiasing" and run.status == "finished" and all(last):
            found.setdefault(float(objective["weight"]), []).append([values[-1] for values in last])
    if not found:
        raise UserError(f"--sweep={folder}: no run of it that has finished has objective.kind='debiasing'")
    return {weight: np.array(rows) for weight, rows in sorted(found.items())}


def tradeoff(found: dict[float, np.ndarray]) -> Chart:
    """Loss against the root mean square of differences, a mark for each run, a line through the weights' means."""
    means = np.array([values.mean(0) for values in found.values()])
    runs, weights = np.concatenate(list(found.values())), [w for w, values in found.items() for _ in values]
    hover = tuple(f"weight {weight:g}" for weight in weights)
    layers = (
        Line(np.sqrt(means[:, 1]), means[:, 0], "muted", name="mean of a weight"),
        Marks(np.sqrt(runs[:, 1]), runs[:, 0], "accent", hover=hover, name="run"),
    )
    axes = Axis("difference of ln p of held-out pairs, root mean square", log=True), Axis("loss, nats a token")
    caption = f"From right to left the weight rises: {', '.join(f'{weight:g}' for weight in found)}."
    return Chart("tradeoff", "What debiasing costs", caption, (Panel(*axes, layers),))


if __name__ == "__main__":
    exit_with(main)
