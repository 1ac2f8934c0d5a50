# SPDX-License-Identifier: Apache-2.0
"""A design in words, rows and a picture, and its files: design.json, cells.csv, design.png."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.files import write_bytes, write_json, write_text
from t5x_like.reporting.charts import Axis, Chart, Layer, Line, Marks, Panel
from t5x_like.reporting.wording import count, figure, percent, power_of_ten
from t5x_like.scaling.design.cells import Cells
from t5x_like.scaling.design.design import Expectation, Plan
from t5x_like.scaling.laws.frontier import can_share, frontier

Array = np.ndarray
Rows = list[tuple[str, ...]]
Window = tuple[float, float]

_MARGIN = 1.6  # around cells and target, a factor
_AREA = 38.0  # of the mark of one run


def interval_in_words(expected: Expectation) -> str:
    """`0.324 to 0.376`, in as many digits as the half width deserves."""
    if not np.isfinite(expected.high) or expected.high > 1e3 * abs(expected.value):
        return f"{figure(expected.low)} to anything"
    if expected.factor:
        show = count if expected.value >= 1e3 else figure
        return f"{show(expected.low)} to {show(expected.high)}"
    decimals = max(0, 1 - int(np.floor(np.log10(expected.half_width))))
    return f"{expected.low:,.{decimals}f} to {expected.high:,.{decimals}f}"


def headline(plan: Plan) -> str:
    """What the design tells about the quantity: `prediction at 1M params and 20M tokens: expected to within ...`."""
    at, place = plan.asked.at, ""
    if at is not None and at.params is None:
        place = f" at {figure(at.flops)} FLOPs"
    elif at is not None:
        place = f" at {count(at.params, trim=True)} params and {count(at.tokens, trim=True)} tokens"
    interval = interval_in_words(plan.expected)
    return f"{plan.asked.name}{place}: expected to within {plan.expected.within} (95 % interval {interval})"


def findings(plan: Plan) -> list[str]:
    """Cost, grids, other priors, extrapolation."""
    cells = plan.cells
    cost = f"{figure(cells.cost)} FLOPs in all, the largest run {figure(cells.largest)}"
    found = [f"{len(cells)} runs of {len(cells.params)} cells, {cost}."]
    for k, grid, expected in plan.grids:
        cost = "the same cost" if grid.cost > 0.98 * cells.cost else f"{100 * grid.cost / cells.cost:.0f} % of the cost"
        found.append(f"The {k} x {k} grid of {cost}, {len(grid)} runs: {expected.within}.")
    low, high = (plan.expected.as_wide(width).within for width in plan.range)
    found.append(f"Were one exponent a step off the prior's: between {low} and {high}.")
    if plan.extrapolation is not None:
        times = f"{figure(plan.extrapolation)} times" if plan.extrapolation > 1 else "no more than"
        found.append(f"In compute, {plan.asked.name} is asked at {times} the largest run.")
    return found


def prior_in_words(plan: Plan) -> str:
    """The law with its numbers, and where they are from."""
    prior = plan.prior
    values = ", ".join(f"{name} = {figure(value)}" for name, value in prior.parameters.items())
    return f"prior ({prior.source}): {prior.law.name}, {values}, noise {percent(prior.noise)} of the loss"


def cell_rows(plan: Plan) -> Rows:
    """Params, tokens, tokens per parameter, FLOPs of a run, runs."""
    columns = zip(plan.cells.params, plan.cells.tokens, plan.cells.counts, strict=True)
    return [(count(n), count(d), figure(d / n), figure(6 * n * d), str(times)) for n, d, times in columns]


def other_rows(plan: Plan) -> Rows:
    """What the design tells about everything else."""
    return [(name, figure(one.value), interval_in_words(one), one.within) for name, one in plan.others.items()]


def simulated_in_words(plan: Plan, found: dict[str, Any]) -> list[str]:
    """Whether simulated sweeps agree with what was expected."""
    middle = found["middle"][0]

    def told(width: float | None) -> str:
        return "unbounded" if width is None else plan.expected.as_wide(width / 2).within

    sentences = [
        f"{found['simulations']} simulated sweeps: the middle 95 % of the estimates of {plan.asked.name} lay within "
        f"{told(middle)}; {told(found['expected_middle'])} was expected."
    ]
    for name, method in found["methods"].items():
        width = None if method["width"][0] is None else method["width"][0] * middle
        sentences.append(
            f"Their 95 % intervals by {name}: {told(width)} in the median, and {percent(method['coverage'][0])} of "
            "them held the truth."
        )
    return sentences


def write(plan: Plan, path: Path, ranges: tuple[Array, Array] | None, command: str, **more: Any) -> list[Path]:
    """Writes design.json and, beside it, design.png and, for a design that was chosen rather than checked, cells.csv.
    `ranges` are the sizes and token counts it was chosen from, or None; `more` are further results for design.json."""
    from t5x_like.reporting.draw_matplotlib import draw, save  # matplotlib takes longer to load than a search

    write_json(path, {**plan.to_json(), **more, "command": command})
    picture = path.with_name("design.png")
    write_bytes(picture, save(draw(design_chart(plan, ranges)), "png", "design", headline(plan)))
    if ranges is None:
        return [path, picture]
    cells = plan.cells
    seeds = np.concatenate([np.arange(times) for times in cells.counts])
    runs = [f"{n:.0f},{d:.0f},{6 * n * d:.6g},{seed}" for n, d, seed in zip(*cells.runs, seeds, strict=True)]
    rows = path.with_name("cells.csv")
    write_text(rows, "\n".join(["params,tokens,flops,seed", *runs, ""]))
    return [path, rows, picture]


def design_chart(plan: Plan, ranges: tuple[Array, Array] | None = None) -> Chart:
    """Returns the picture: cells over params and tokens, lines of equal compute, and what is to be predicted.
    Cells of the sizes and token counts that it was chosen from (`ranges`) are marked faintly."""
    cells, at, best = plan.cells, plan.asked.at, partial(frontier, plan.prior.law, plan.prior.vectors[0])
    shown = [(cells.params, cells.tokens), *([ranges] if ranges else [])]
    if at is not None:
        target = best(np.array([at.flops])) if at.params is None else Cells.of([at.params], [at.tokens])
        shown.append((target.params, target.tokens))
    x, y = (
        (float(np.nanmin(values)) / _MARGIN, float(np.nanmax(values)) * _MARGIN)
        for values in map(np.concatenate, zip(*shown, strict=True))
    )
    layers: list[Layer] = list(_equal_compute(x, y))
    if can_share(plan.prior.law):
        line = best(np.geomspace(6 * x[0] * y[0], 6 * x[1] * y[1], 60))
        if np.isfinite(line.params).all():
            layers.append(Line(line.params, line.tokens, "second", "compute-optimal, by the prior", dash="dash"))
    if ranges:
        offered = Cells.product(*ranges)
        layers.append(Marks(offered.params, offered.tokens, "muted", area=3.0, opacity=0.35))
    layers += _marks(cells)
    if at is not None:
        hover = (f"{plan.asked.name}, {figure(plan.extrapolation)} times the largest run",)
        layers.append(Marks(*shown[-1], "accent", hover, name=plan.asked.name, area=90.0, shape="diamond"))
    panel = Panel(Axis("params", True, "count", x), Axis("training tokens", True, "count", y), tuple(layers))
    title = f"{len(cells)} runs, {figure(cells.cost)} FLOPs: {plan.asked.name} to within {plan.expected.within}"
    caption = "The cells of the design among those it was chosen from; faint lines are of equal compute."
    return Chart("design", title, caption, (panel,))


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


def _marks(cells: Cells) -> list[Marks]:
    """One set of marks for every number of runs, larger for more."""
    sets = []
    for times in np.unique(cells.counts):
        rows = cells.counts == times
        n, d = cells.params[rows], cells.tokens[rows]
        runs = "1 run" if times == 1 else f"{times} runs"
        hover = tuple(f"{count(a)} params, {count(b)} tokens, {runs}" for a, b in zip(n, d, strict=True))
        sets.append(Marks(n, d, "ink", hover, name="" if times == 1 else runs, area=_AREA * float(times)))
    return sets
