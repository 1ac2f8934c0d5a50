# SPDX-License-Identifier: Apache-2.0
"""How time and memory of kinds of attention grow with the length, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contenders.tables import Row
from t5x_like.files import write_bytes
from t5x_like.reporting.charts import Axis, Chart, Dash, Line, Panel

SHORT = {"sparse_transformer": "strided", "transient_global": "transient"}  # there is room for so much beside a line


def draw_kinds(rows: Sequence[Row], folder: Path) -> None:
    """Writes kinds_time.png and kinds_memory.png: a line for each kind, softmax dashed."""
    from t5x_like.reporting.draw_matplotlib import draw, save

    measured = [row for row in rows if row.rate]
    for what, label in (("time", "milliseconds"), ("memory", "MiB of temporaries")):
        lines = []
        names = list(dict.fromkeys(row.contender for row in measured))
        for number, name in enumerate(names):
            points = [(row.measures["length"], _value(row, what)) for row in measured if row.contender == name]
            x, y = np.array(points).T
            dash: Dash = "dash" if name == "softmax" else "solid"
            lines.append(Line(x, y, number / max(len(names) - 1, 1), end=SHORT.get(name, name), hover=name, dash=dash))
        panel = Panel(Axis("tokens of a row", True, "count"), Axis(label, True), tuple(lines))
        chart = Chart(f"kinds_{what}", "One attention layer, forward and backward", "", (panel,), end_title="kind")
        write_bytes(folder / f"{chart.name}.png", save(draw(chart), "png", chart.name))


def _value(row: Row, what: str) -> float:
    assert row.rate is not None
    return 1e3 * row.measures["length"] / row.rate if what == "time" else row.measures["mebibytes"]
