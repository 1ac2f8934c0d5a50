# SPDX-License-Identifier: Apache-2.0
"""Scores of a sweep by size: does an ability appear, or does a metric make it look so (Schaeffer et al. 2023)?

python scripts/evaluate.py --workdir=runs/phone_book/sweep --tasks=runs/phone_book/phone_book.jsonl
python scripts/emergence.py --sweep=runs/phone_book/sweep --task=phone_book --out=runs/phone_book/emergence
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from t5x_like.command_line import Parser
from t5x_like.errors import exit_with
from t5x_like.evaluation.text_metrics import FEWER_IS_BETTER
from t5x_like.files import make_folder, write_json, write_text
from t5x_like.reporting import draw_plotly, page
from t5x_like.reporting.charts import Axis, Chart, Layer, Line, Marks, Panel
from t5x_like.reporting.painter import Painter
from t5x_like.reporting.palette import SERIES
from t5x_like.reporting.wording import count, figure
from t5x_like.scaling.analysis.emergence import emergence

PARAMS = Axis("params", log=True, kind="count")
WHOLE = ("exact_match", "greedy_match")  # right only where every token is


def main() -> None:
    parser = Parser(__doc__, required=("sweep", "task", "out"))
    parser.add_argument("--sweep", metavar="DIR", help="a sweep whose runs scripts/evaluate.py has scored")
    parser.add_argument("--task", metavar="NAME", help="of the task file, without its ending")
    parser.add_argument("--out", metavar="DIR", help="where emergence.json, pictures and emergence.html go")
    flags = parser.read()
    found = emergence(Path(flags.sweep), flags.task)
    out, command = make_folder(flags.out, "--out"), shlex.join(["python", *sys.argv])
    table = page.Table(("metric", "at the smallest", "at the largest", "largest step", "emergence score"), rows(found))
    shown = Table(box=None, pad_edge=False)
    for title in table.head:
        shown.add_column(title, justify="left" if title == "metric" else "right")
    for row in table.rows:
        shown.add_row(*map(str, row))
    Console().print(shown, highlight=False)
    charts = [together(found), *(of_metric(found, name) for name in found["metrics"])]
    write_json(out / "emergence.json", {"task": flags.task, "command": command, **found})
    with Painter(out) as painter:
        painter.paint(charts, command)
        painter.finish()
    pngs = {chart.name: (out / f"{chart.name}.png").read_bytes() for chart in charts}
    part = page.Section(f"Scores on {flags.task}", charts=tuple(charts), tables=(table,), notes=(command,))
    title = f"{flags.task}: {len(found['params'])} sizes"
    told = {"heading": "By how much scores jump", "findings": findings(found), "tiles": [], "source": ""}
    caveat = "Intervals are over questions: they say nothing of what another seed would have trained."
    text = page.document(title, [part], pngs, draw_plotly.library(), law="Metrics by size", warnings=[caveat], **told)
    write_text(out / "emergence.html", text)
    print(f"written: {out}/emergence.html, emergence.json, emergence.png")


def rows(found: dict[str, Any]) -> list[list[str]]:
    """A line for each metric."""
    return [
        [name, figure(of["value"][0]), figure(of["value"][-1]), _percent(of["largest_step"]), _score(of)]
        for name, of in found["metrics"].items()
    ]


def findings(found: dict[str, Any]) -> list[str]:
    """What is to be seen, in words, the most abrupt metric first."""
    ordered = sorted(found["metrics"].items(), key=lambda item: -(item[1]["largest_step"] or 0))
    return [
        f"{name}: {_percent(of['largest_step'])} of its whole change lies between two neighbouring sizes; "
        f"emergence score {_score(of)}."
        for name, of in ordered
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _score(of: dict[str, Any]) -> str:
    return "unbounded" if of["emergence_score"] is None else f"{of['emergence_score']:.2f}"


def together(found: dict[str, Any]) -> Chart:
    """All metrics on one scale, from their worst to their best."""
    layers: list[Layer] = []
    params = np.array(found["params"], float)
    for (name, of), colour in zip(found["metrics"].items(), SERIES, strict=False):
        values = np.array(of["value"]) * (-1 if name in FEWER_IS_BETTER else 1)
        share = (values - values.min()) / (np.ptp(values) or 1.0)
        hover = tuple(
            f"{name} {figure(value)}\n{count(p)} params" for value, p in zip(of["value"], params, strict=True)
        )
        layers += [Line(params, share, colour, hover=name), Marks(params, share, colour, hover, name.replace("_", " "))]
    panel = Panel(PARAMS, Axis("from the worst to the best score"), tuple(layers))
    caption = "The same answers of the same models by several metrics, each from its worst to its best."
    return Chart("emergence", "Metrics by size", caption, (panel,))


def of_metric(found: dict[str, Any], name: str) -> Chart:
    """A metric with intervals; of one that needs all tokens right, what accuracy by token makes one expect."""
    params, of = np.array(found["params"], float), found["metrics"][name]
    value, low, high = (np.array(of.get(end, of["value"])) for end in ("value", "low", "high"))
    error = np.maximum(np.stack([value - low, high - value]), 0)
    layers: list[Layer] = [Line(params, value, "accent"), Marks(params, value, "accent", error=error, name="measured")]
    caption = "Bars are 95 % intervals over questions."
    tokens = found["metrics"].get("token_accuracy")
    if name in WHOLE and tokens:
        power = np.array(tokens["value"]) ** found["target_tokens"]
        told = f"token accuracy to the power of {found['target_tokens']:.3g}"
        layers.append(Line(params, power, "second", name=told, dash="dash"))
        caption += f" A target has {found['target_tokens']:.3g} tokens, and all of them must be right."
    panel = Panel(PARAMS, Axis(name.replace("_", " ")), tuple(layers))
    return Chart(f"emergence_{name}", name.replace("_", " "), caption, (panel,))


if __name__ == "__main__":
    exit_with(main)
