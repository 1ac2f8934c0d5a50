# SPDX-License-Identifier: Apache-2.0
"""A design in words and rows, and its files: design.json, cells.csv, design.png."""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.files import write_bytes, write_json, write_text
from t5x_like.reporting.wording import count, figure, percent
from t5x_like.scaling.design.design import Plan
from t5x_like.scaling.design.question import At, Expectation

Array = np.ndarray
Rows = list[tuple[str, ...]]


def place_in_words(at: At | None) -> str:
    """` at 1.2×10¹⁵ FLOPs`, ` at 1M params and 20M tokens`, or nothing."""
    if at is None:
        return ""
    if at.params is None:
        return f" at {figure(at.flops)} FLOPs"
    return f" at {count(at.params, trim=True)} params and {count(at.tokens, trim=True)} tokens"


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
    """What the design tells about the quantity."""
    asked, expected = plan.asked, plan.expected
    return (
        f"{asked.name}{place_in_words(asked.at)}: expected to within {expected.within} "
        f"(95 % interval {interval_in_words(expected)})"
    )


def findings(plan: Plan) -> list[str]:
    """Cost, grids, other priors, extrapolation."""
    cells, runs = plan.cells, len(plan.cells)
    found = [
        f"{runs} runs of {len(cells.params)} cells, {figure(cells.cost)} FLOPs in all, the largest run "
        f"{figure(cells.largest)}."
    ]
    for k, grid, expected in plan.grids:
        cost = "the same cost" if grid.cost > 0.98 * cells.cost else f"{100 * grid.cost / cells.cost:.0f} % of the cost"
        found.append(f"The {k} x {k} grid of {cost}, {len(grid)} runs: {expected.within}.")
    low, high = (dataclasses.replace(plan.expected, half_width=width).within for width in plan.range)
    found.append(f"Were one exponent a step off the prior's: between {low} and {high}.")
    if plan.extrapolation is not None:
        beyond = plan.extrapolation > 1
        where = f"{figure(plan.extrapolation)} times the largest run" if beyond else "no more than the largest run"
        found.append(f"In compute, {plan.asked.name} is asked at {where}.")
    return found


def prior_in_words(plan: Plan) -> str:
    """The law with its numbers, and where they are from."""
    prior = plan.prior
    values = ", ".join(f"{name} = {figure(value)}" for name, value in prior.parameters.items())
    return f"prior ({prior.source}): {prior.law.name}, {values}, noise {percent(prior.noise)} of the loss"


def cell_rows(plan: Plan) -> Rows:
    """Params, tokens, tokens per parameter, FLOPs of a run, runs."""
    cells = plan.cells
    return [
        (count(n), count(d), figure(d / n), figure(6 * n * d), str(times))
        for n, d, times in zip(cells.params, cells.tokens, cells.counts, strict=True)
    ]


def other_rows(plan: Plan) -> Rows:
    """What the design tells about everything else."""
    return [(name, figure(one.value), interval_in_words(one), one.within) for name, one in plan.others.items()]


def simulated_in_words(plan: Plan, found: dict[str, Any]) -> list[str]:
    """Whether simulated sweeps agree with what was expected."""

    def told(width: float | None) -> str:
        return "unbounded" if width is None else dataclasses.replace(plan.expected, half_width=width / 2).within

    sentences = [
        f"{found['simulations']} simulated sweeps: the middle 95 % of the estimates of {plan.asked.name} lay within "
        f"{told(found['middle'][0])}; {told(found['expected_middle'])} was expected."
    ]
    for name, method in found["methods"].items():
        width = None if method["width"][0] is None else method["width"][0] * found["middle"][0]
        sentences.append(
            f"Their 95 % intervals by {name}: {told(width)} in the median, and {percent(method['coverage'][0])} of "
            "them held the truth."
        )
    return sentences


def prepare(out: str) -> Path:
    """Returns where design.json goes, for a path to it or to a folder; the folder is made.

    Raises:
      UserError: it cannot be made.
    """
    path = Path(out) if out.endswith(".json") else Path(out) / "design.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: not a folder that can be written ({error.strerror})") from None
    return path


def write(plan: Plan, path: Path, ranges: tuple[Array, Array] | None, command: str, **more: Any) -> list[Path]:
    """Writes the design and its picture; a design that was chosen rather than checked (`ranges`) gets a cells.csv, too.

    Args:
      plan: the design.
      path: of design.json; the others lie beside it.
      ranges: sizes and token counts it was chosen from, or None.
      command: the command line, for the record.
      more: further results for design.json.
    """
    from t5x_like.reporting.draw_matplotlib import draw, save  # matplotlib takes longer to load than a search
    from t5x_like.scaling.design.plot import design_chart

    write_json(path, {**plan.to_json(), **more, "command": command})
    picture = path.with_name("design.png")
    write_bytes(picture, save(draw(design_chart(plan, ranges)), "png", "design", headline(plan)))
    if ranges is None:
        return [path, picture]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("params", "tokens", "flops", "seed"))
    cells = plan.cells
    for n, d, times in zip(cells.params, cells.tokens, cells.counts, strict=True):
        for seed in range(times):
            writer.writerow((f"{n:.0f}", f"{d:.0f}", f"{6 * n * d:.6g}", seed))
    rows = path.with_name("cells.csv")
    write_text(rows, table.getvalue())
    return [path, rows, picture]
