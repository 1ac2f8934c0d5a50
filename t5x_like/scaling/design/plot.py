# SPDX-License-Identifier: Apache-2.0
"""A picture of a design: its cells over params and tokens, lines of equal compute, and what it is to predict."""

import numpy as np

from t5x_like.reporting.charts import Axis, Chart, Layer, Line, Marks, Panel
from t5x_like.reporting.wording import count, figure, power_of_ten
from t5x_like.scaling.design.cells import Cells
from t5x_like.scaling.design.design import Plan
from t5x_like.scaling.laws.frontier import can_share, frontier

Array = np.ndarray
Window = tuple[float, float]

_MARGIN = 1.6  # around cells and target, a factor
_AREA = 38.0  # of the mark of one run


def design_chart(plan: Plan, ranges: tuple[Array, Array] | None = None) -> Chart:
    """Returns the picture.

    Args:
      plan: the design.
      ranges: sizes and token counts it was chosen from, marked faintly.
    """
    target = _target(plan)
    x, y = (
        _window(cells, ranges[i] if ranges else cells, target[i] if target else float(cells[0]))
        for i, cells in enumerate((plan.cells.params, plan.cells.tokens))
    )
    layers: list[Layer] = [*_equal_compute(x, y), *_optimum(plan, x, y)]
    if ranges:
        offered = Cells.product(*ranges)
        layers.append(Marks(offered.params, offered.tokens, "muted", area=3.0, opacity=0.35))
    layers += _cells(plan)
    if target:
        hover = (f"{plan.asked.name}, {figure(plan.extrapolation)} times the largest run",)
        n, d = np.array([target[0]]), np.array([target[1]])
        layers.append(Marks(n, d, "accent", hover, name=plan.asked.name, area=90.0, shape="diamond"))
    panel = Panel(Axis("params", True, "count", x), Axis("training tokens", True, "count", y), tuple(layers))
    return Chart(
        "design",
        f"{len(plan.cells)} runs, {figure(plan.cells.cost)} FLOPs: {plan.asked.name} to within {plan.expected.within}",
        "The cells of the design among those it was chosen from; faint lines are of equal compute.",
        (panel,),
    )


def _target(plan: Plan) -> tuple[float, float] | None:
    """Params and tokens of what is asked about: a cell, or the best one of a compute."""
    at = plan.asked.at
    if at is None:
        return None
    if at.params is not None and at.tokens is not None:
        return at.params, at.tokens
    best = frontier(plan.prior.law, plan.prior.vectors[0], np.array([at.flops]))
    return float(best.params[0]), float(best.tokens[0])


def _window(cells: Array, offered: Array, target: float) -> Window:
    shown = [*cells, *offered, target]
    return min(shown) / _MARGIN, max(shown) * _MARGIN


def _equal_compute(x: Window, y: Window) -> list[Line]:
    """Powers of ten of compute, named where they leave the picture at its right."""
    lines = []
    for power in range(int(np.ceil(np.log10(6 * x[0] * y[0]))), int(np.log10(6 * x[1] * y[1])) + 1):
        params = np.array(x)
        tokens = 10.0**power / 6 / params
        text = f"{power_of_ten(10.0**power)} FLOPs"
        end = text if y[0] < tokens[1] < y[1] else ""
        lines.append(Line(params, tokens, "muted", end=end, hover=text, width=0.8, opacity=0.35))
    return lines


def _optimum(plan: Plan, x: Window, y: Window) -> list[Line]:
    if not can_share(plan.prior.law):
        return []
    best = frontier(plan.prior.law, plan.prior.vectors[0], np.geomspace(6 * x[0] * y[0], 6 * x[1] * y[1], 60))
    if not np.isfinite(best.params).all():
        return []
    return [Line(best.params, best.tokens, "second", name="compute-optimal, by the prior", dash="dash")]


def _cells(plan: Plan) -> list[Marks]:
    """One set of marks for every number of runs, larger for more."""
    cells, sets = plan.cells, []
    for times in np.unique(cells.counts):
        rows = cells.counts == times
        n, d = cells.params[rows], cells.tokens[rows]
        runs = "1 run" if times == 1 else f"{times} runs"
        hover = tuple(f"{count(a)} params, {count(b)} tokens, {runs}" for a, b in zip(n, d, strict=True))
        name = "" if times == 1 else runs
        sets.append(Marks(n, d, "ink", hover, name=name, area=_AREA * float(times)))
    return sets
