# SPDX-License-Identifier: Apache-2.0
"""The picture of docs/known_truth.md: how far each law's predicted loss is off beyond the data, surface by surface."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from truth.truth import MULTIPLES, Study

INK, MUTED, GRID = "#22262b", "#667079", "#e7eaed"
HIGH, LOW = "#c2410c", "#1d4ed8"
COLUMNS = 4
LEAST, MOST = 0.01, 30.0  # per cent; what is beyond sits on the edge
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": "#aab2b9",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
}


def draw(studies: Sequence[Study]) -> bytes:
    """Returns a PNG: a panel a surface, a row a law, a faint dot a data set, a full one their median; a log axis."""
    laws = [outcome.law.name for outcome in studies[0].outcomes]
    columns = min(COLUMNS, len(studies))
    rows = -(-len(studies) // columns)
    with mpl.rc_context(_STYLE):
        canvas = Figure(figsize=(2.4 * columns + 1.6, (0.28 * len(laws) + 0.75) * rows + 0.8), layout="constrained")
        frames = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for i, (frame, study) in enumerate(zip(frames, studies, strict=False)):
            _panel(frame, study, laws)
            frame.tick_params(labelbottom=i + columns >= len(studies))
        for frame in frames[len(studies) :]:
            frame.set_visible(False)
        text = f"absolute error of the predicted loss at {MULTIPLES[-1]:g} times the largest compute"
        canvas.supxlabel(f"{text}; a panel for each surface, a row for each law", color=INK, fontsize=10)
        canvas.legend(handles=_legend(), loc="outside upper left", ncols=4, frameon=False, fontsize=9)
        out = io.BytesIO()
        canvas.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def _panel(frame: Any, study: Study, laws: list[str]) -> None:
    for place, outcome in enumerate(study.outcomes):
        errors = 100 * outcome.loss[1:, -1]
        middle = float(np.median(errors))
        sizes = np.clip(np.abs(errors), LEAST, MOST)
        frame.scatter(sizes, np.full(len(errors), place), s=16, c=[_colour(e) for e in errors], alpha=0.35, lw=0)
        typical = float(np.clip(np.median(np.abs(errors)), LEAST, MOST))
        own = study.case.law == outcome.law.name
        edge, width = (INK, 1.6) if own else ("w", 0.8)
        frame.scatter(typical, place, s=48, c=_colour(middle), edgecolors=edge, linewidths=width, zorder=3)
    frame.set_title(study.case.name, fontsize=10, loc="left", color=INK)
    frame.set_xscale("log")
    frame.set_xlim(LEAST * 0.8, MOST * 1.25)
    frame.set_ylim(len(laws) - 0.5, -0.5)
    frame.xaxis.set_major_locator(ticker.FixedLocator([0.01, 0.1, 1, 10]))
    frame.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g} %"))
    frame.xaxis.set_minor_locator(ticker.NullLocator())
    frame.set_yticks(range(len(laws)), laws)
    frame.tick_params(axis="y", length=0)
    frame.grid(axis="both", color=GRID, lw=0.8)


def _colour(error: float) -> str:
    return HIGH if error > 0 else LOW


def _legend() -> list[Line2D]:
    dot: dict[str, Any] = {"marker": "o", "ls": "", "markeredgecolor": "none"}
    return [
        Line2D([], [], color=HIGH, markersize=7, label="predicted too high", **dot),
        Line2D([], [], color=LOW, markersize=7, label="predicted too low", **dot),
        Line2D([], [], color=MUTED, markersize=4, alpha=0.5, label="small: a data set; large: the median", **dot),
        Line2D([], [], marker="o", ls="", color="w", mec=INK, mew=1.6, ms=6, label="the law is the surface's own"),
    ]
