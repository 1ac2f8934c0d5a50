# SPDX-License-Identifier: Apache-2.0
"""Predicts the loss curve of one learning-rate schedule from runs of the same model under others.

python scripts/curves.py --runs=runs/constant,runs/cosine --predict=runs/wsd --out=runs/curves

The runs need held-out losses along the way: --config.training.evaluate_every=5%.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.files import make_folder, write_json
from t5x_like.reporting.charts import Axis, Chart, Line, Marks, Panel
from t5x_like.reporting.painter import Painter
from t5x_like.reporting.wording import figure, percent
from t5x_like.scaling.analysis.schedule_law import MultiPower, Schedule, fit_multi_power, read_schedule


def main() -> None:
    parser = Parser(__doc__, required=("runs", "out"))
    parser.add_argument("--runs", metavar="DIR,DIR", help="runs to fit the law to, of one model and data")
    parser.add_argument("--predict", metavar="DIR,DIR", default="", help="runs to predict")
    parser.add_argument("--out", metavar="DIR", help="where curves.json and the picture go")
    flags = parser.read()
    fitted, others = ([read_schedule(path) for path in text.split(",") if path] for text in (flags.runs, flags.predict))
    if not fitted:
        raise UserError("--runs: is empty; accepted: folders of runs with commas between them")
    law = fit_multi_power(fitted)
    rows = [_row(law, curve, curve in fitted) for curve in (*fitted, *others)]
    console = Console()
    told = ", ".join(f"{name} {figure(value)}" for name, value in asdict(law).items() if name != "residual_rms")
    console.print(f"multi-power law: {told}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    head = ("run", "", "rms error", "loss at the end", "by the law", "off")
    for title in head:
        table.add_column(title, justify="left" if title in head[:2] else "right")
    for row in rows:
        table.add_row(row["run"], "fitted" if row["fitted"] else "predicted", percent(row["rms_error"]),
                      figure(row["loss"], 4), figure(row["predicted"], 4),
                      percent(row["predicted"] / row["loss"] - 1, signed=True))  # fmt: skip
    console.print(table, highlight=False)
    out = make_folder(flags.out, "--out")
    write_json(out / "curves.json", {"law": asdict(law), "runs": rows})
    with Painter(out) as painter:
        painter.paint([_chart(law, (*fitted, *others))], shlex.join(["python", *sys.argv]))
        painter.finish()
    print(f"{out}/curves.json, {out}/loss_by_step.png")


def _row(law: MultiPower, curve: Schedule, fitted: bool) -> dict[str, Any]:
    predicted = law.predict(curve)
    error = float(np.sqrt(np.mean(np.log(predicted / curve.losses) ** 2)))
    ends = {"loss": float(curve.losses[-1]), "predicted": float(predicted[-1])}
    return {"run": curve.name, "fitted": fitted, "rms_error": error, **ends}


def _chart(law: MultiPower, curves: Sequence[Schedule]) -> Chart:
    layers: list[Line | Marks] = []
    for number, curve in enumerate(curves):
        colour = number / max(1, len(curves) - 1)
        layers += [
            Line(curve.steps, law.predict(curve), colour, end=curve.name),
            Marks(curve.steps, curve.losses, colour, area=16.0),
        ]
    panel = Panel(Axis("step", kind="count"), Axis("held-out loss, nats per token"), tuple(layers))
    caption = "Held-out losses as runs trained (dots), and what the law says of their schedules (lines)."
    return Chart("loss_by_step", "Loss under several schedules", caption, (panel,), end_title="run")


if __name__ == "__main__":
    exit_with(main)
