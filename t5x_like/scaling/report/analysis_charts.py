# SPDX-License-Identifier: Apache-2.0
"""Charts of the analyses that hang on a fit, from their plain data."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_like.scaling.report.charts import Axis, Band, Chart, Layer, Line, Marks, Panel, Rule, Scale, Shape
from t5x_like.scaling.report.palette import SERIES
from t5x_like.scaling.report.plots import LABELS, LOSS, size_scale
from t5x_like.scaling.report.ticks import Tick, ticks
from t5x_like.scaling.wording import count, figure, percent, span

Array = np.ndarray
Found = dict[str, Any]

_SAMPLES = 60
_MOST_EXPONENTS = 4
_SHAPES: tuple[Shape, ...] = ("circle", "square", "diamond", "circle")


def leaderboard(found: Found) -> Chart:
    """Errors on runs left out, a law a line, the best on top."""
    rows = found["rows"]
    tests = (("leave_one_out_rms", "leave one out"), ("rolling_origin_rms", "larger runs from smaller"))
    layers: list[Layer] = []
    for (key, name), colour, shape in zip(tests, SERIES, _SHAPES, strict=False):
        known = [i for i, row in enumerate(rows) if row[key] is not None]
        if known:
            errors = np.array([100 * rows[i][key] for i in known])
            told = tuple(f"{rows[i]['law']}\n{name}: {percent(rows[i][key])}" for i in known)
            layers.append(Marks(errors, -np.array(known, float), colour, hover=told, name=name, shape=shape))
    axis = _named([row["law"] for row in rows])
    caption = "Root mean square error of each law on runs that its fit did not see; the best law is on top."
    panel = Panel(Axis("error on runs left out, %", log=True), axis, tuple(layers))
    return Chart("leaderboard", "Laws compared", caption, (panel,))


def influence(found: Found, quantity: str | None = None) -> Chart:
    """Points by params and tokens, their area the largest shift that leaving them out causes, or that of a quantity."""
    rows = found["rows"]
    params, tokens = (np.array([row[name] for row in rows]) for name in ("params", "tokens"))
    shifts = np.array([row["largest"] if quantity is None else row["shifts"][quantity] for row in rows])
    told = tuple(_moved(row, quantity) for row in rows)
    scale = size_scale(params)
    area = 8.0 + 420.0 * np.abs(shifts) / max(float(np.abs(shifts).max()), 1e-12)
    order = np.argsort(-area)  # small ones last, so that none is hidden
    marks = Marks(
        params[order],
        tokens[order],
        scale.place(params)[order],
        hover=tuple(told[i] for i in order),
        area=area[order],
        opacity=0.75,
    )
    what = "any quantity" if quantity is None else quantity
    caption = f"A point's area is how far leaving it out moves {what}, in standard errors of the whole fit."
    panel = Panel(Axis("params", log=True, kind="count"), Axis("training tokens", log=True, kind="count"), (marks,))
    return Chart("influence", "Influence of single points", caption, (panel,), scale)


def _moved(row: Found, quantity: str | None) -> str:
    name = row["moves"] if quantity is None else quantity
    lines = [
        row.get("run", ""),
        f"{count(row['params'])} params, {count(row['tokens'])} tokens",
        f"loss {figure(row['loss'], 4)}, residual {percent(row['residual'], signed=True)}",
        f"without it, {name} moves by {row['shifts'][name]:+.2f} standard errors",
    ]
    return "\n".join(line for line in lines if line)


def isoflop_valleys(found: Found, params: Array, loss: Array) -> Chart:
    """Loss over size at each budget, the fitted curves, and their minima."""
    scale = _budget_scale(found)
    runs: list[Layer] = []
    lines: list[Layer] = []
    minima: list[Layer] = []
    for budget in found["budgets"]:
        rows, place = np.array(budget["rows"], int), float(scale.place(budget["flops"]))
        told = tuple(
            f"{figure(budget['flops'])} FLOPs\n{count(n)} params\nloss {figure(float(y), 4)}"
            for n, y in zip(params[rows].tolist(), loss[rows], strict=True)
        )
        runs.append(Marks(params[rows], loss[rows], np.full(len(rows), place), hover=told, area=16.0))
        curve = budget["curves"][found["form"]]
        if not curve:
            continue
        sizes = np.geomspace(params[rows].min(), params[rows].max(), _SAMPLES)
        fitted = np.polynomial.polynomial.polyval(np.log(sizes) - curve["center"], curve["coefficients"])
        dashed = "solid" if not curve["problem"] else "dot"
        name = f"{figure(budget['flops'])} FLOPs"
        lines.append(Line(sizes, fitted, place, hover=name, dash=dashed, width=1.2))  # type: ignore[arg-type]
        if not curve["problem"]:
            best = f"{name}\nbest {count(curve['params'])} params\nloss {figure(curve['loss'], 4)}"
            at = (np.array([curve["params"]]), np.array([curve["loss"]]))
            minima.append(Marks(*at, "accent", hover=(best,), shape="diamond", name="minimum" if not minima else ""))
    panel = Panel(Axis("params", log=True, kind="count"), Axis(LOSS, log=True), (*lines, *runs, *minima))
    caption = f"Runs of equal compute, a {found['form']} through each budget; dotted where it has no minimum inside."
    return Chart("isoflop", "Loss by size at equal compute", caption, (panel,), scale)


def _budget_scale(found: Found) -> Scale:
    flops = [budget["flops"] for budget in found["budgets"]]
    low, high = min(flops), max(flops)
    if high < low * 1.2:
        return Scale("FLOPs", low, high, ((low, figure(low, 2)),))
    placed = ticks(low, high, log=True, kind="power", most=6)
    return Scale("FLOPs", low, high, tuple(placed))


def isoflop_sizes(found: Found) -> Chart:
    """The best size of each budget, the power law through them, and the fitted surface's optimum."""
    form = found["form"]
    good = [(b["flops"], b["curves"][form]) for b in found["budgets"] if b["curves"][form]]
    good = [(flops, curve) for flops, curve in good if not curve["problem"]]
    flops, best = np.array([f for f, _ in good]), np.array([curve["params"] for _, curve in good])
    ends = np.array([[_or_nan(end) for end in curve["intervals"]["params"]] for _, curve in good], float)
    error = np.abs(ends.T - best) if len(good) else np.zeros((2, 0))
    told = tuple(
        f"{figure(float(f))} FLOPs\nbest {count(float(n))} params\n95 %: {span(curve['intervals']['params'], count)}"
        for f, n, (_, curve) in zip(flops, best, good, strict=True)
    )
    layers: list[Layer] = []
    law = found["laws"].get(form, {}).get("params")
    if law and len(flops) > 1:
        along = np.geomspace(flops.min(), flops.max(), 2)
        name = f"through the minima: C^{figure(law['exponent'])}"
        layers.append(
            Line(along, law["coefficient"] * along ** law["exponent"], "accent", name=name, hover=name, width=2)
        )
    against = found.get("against_surface")
    if against and against["rows"]:
        x, y = (np.array([row[key] for row in against["rows"]]) for key in ("flops", "surface_params"))
        name = f"the fitted law: C^{figure(against['surface_a'])}"
        layers.append(Line(x, y, "second", name=name, hover=name, width=2, dash="dash"))
    layers.append(
        Marks(flops, best, "accent", hover=told, shape="diamond", error=np.where(np.isfinite(error), error, 0))
    )
    caption = "Diamonds: the best size read off each budget alone, with 95 % intervals where they are bounded."
    panel = Panel(
        Axis(LABELS["flops"][0], log=True, kind="power"), Axis("params", log=True, kind="count"), tuple(layers)
    )
    return Chart("isoflop_sizes", "Best size by budget", caption, (panel,))


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def sensitivity(rows: Sequence[Found], names: Sequence[str], name: str, title: str, caption: str) -> Chart | None:
    """Parameters by setting; `names` are those to show, each in a colour. None where no setting has them."""
    known = [row for row in rows if row["parameters"]]
    names = [each for each in names if known and each in known[0]["parameters"]][:_MOST_EXPONENTS]
    if not names:
        return None
    layers: list[Layer] = []
    for each, colour, shape in zip(names, SERIES, _SHAPES, strict=False):
        values = np.array([row["parameters"][each] for row in known])
        told = tuple(f"{row['setting']}\n{each} {figure(v)}" for row, v in zip(known, values.tolist(), strict=True))
        layers.append(Marks(values, -np.arange(len(known), dtype=float), colour, hover=told, name=each, shape=shape))
    panel = Panel(Axis("value"), _named([row["setting"] for row in known]), tuple(layers))
    return Chart(name, title, caption, (panel,))


def coverage(found: Found) -> Chart:
    """The share of simulations in which each method's interval holds the truth, a quantity a line."""
    names = found["quantities"]
    layers: list[Layer] = [Rule(95.0, vertical=True, label="nominal", dash="dash", below=True)]
    for (method, result), colour, shape in zip(found["methods"].items(), SERIES, _SHAPES, strict=False):
        shares = 100 * np.array(result["coverage"])
        told = tuple(f"{name}\n{method}: {share:.1f} %" for name, share in zip(names, shares.tolist(), strict=True))
        layers.append(Marks(shares, -np.arange(len(names), dtype=float), colour, hover=told, name=method, shape=shape))
    caption = f"How often nominal 95 % intervals held the truth in {found['simulations']} simulations of this design."
    panel = Panel(Axis("coverage, %"), _named(names), tuple(layers))
    return Chart("coverage", "Coverage of the intervals", caption, (panel,))


def comparison(found: Found) -> Chart:
    """The compute multiplier by loss, with its interval; dashed where either arm is extrapolated."""
    a, b = found["names"]
    rows = [row for row in found["rows"] if row["multiplier"] is not None]
    loss, worth = (np.array([row[key] for row in rows], float) for key in ("loss", "multiplier"))
    spreads = [row["interval"] or [None, None] for row in rows]
    low, high = np.array([[_or_nan(end) for end in pair] for pair in spreads], float).reshape(-1, 2).T
    told = tuple(
        f"loss {figure(row['loss'], 4)}\n{b} is worth {figure(row['multiplier'])} times its compute\n"
        f"95 %: {span(row['interval'])}{', extrapolated' if row['extrapolated'] else ''}"
        for row in rows
    )
    beyond = np.array([row["extrapolated"] for row in rows], bool)
    layers: list[Layer] = [Rule(1.0, label="equal", dash="dash"), Band(loss, low, high, "accent")]
    layers.append(Line(loss, worth, "accent", width=2.0))
    for chosen, hollow, name in ((~beyond, False, ""), (beyond, True, "extrapolated")):
        if chosen.any():
            texts = tuple(text for text, use in zip(told, chosen, strict=True) if use)
            layers.append(Marks(loss[chosen], worth[chosen], "accent", hover=texts, hollow=hollow, name=name))
    caption = (
        f"Compute that {a} needs for a loss over what {b} needs for it, with its 95 % band; above 1, {b} is better."
    )
    panel = Panel(Axis(LOSS, log=True), Axis("compute multiplier", log=True), tuple(layers))
    return Chart("comparison", f"{b} against {a}", caption, (panel,))


def intervals(found: dict[str, dict[str, Any]], estimates: dict[str, float]) -> Chart:
    """Intervals by method, relative to the estimate, a parameter a group."""
    methods, names = list(found), [name for name, value in estimates.items() if value > 0]
    layers: list[Layer] = [Rule(1.0, vertical=True, label="estimate", dash="dash")]
    marks: list[Tick] = []
    named: set[str] = set()
    for j, name in enumerate(names):
        centre = -float(j)
        marks.append((centre, name))
        for i, (method, colour) in enumerate(zip(methods, SERIES, strict=False)):
            pair = found[method].get(name)
            if pair is None or None in pair:  # an unbounded one is in the table only
                continue
            at = centre + 0.14 * ((len(methods) - 1) / 2 - i)
            told = f"{name}, {method}: {span(pair)}"
            shown = "" if method in named else method
            named.add(method)
            ends = np.array(pair, float) / estimates[name]
            layers.append(Line(ends, np.array([at, at]), colour, name=shown, hover=told, width=3.0))
    y = Axis("", limits=(marks[-1][0] - 0.6, 0.6), marks=tuple(marks))
    panel = Panel(Axis("interval over estimate", log=False), y, tuple(layers))
    caption = "95 % intervals of each parameter by method, as multiples of the estimate, where they have two ends."
    return Chart("intervals", "Intervals by method", caption, (panel,))


def _named(names: Sequence[str]) -> Axis:
    """An axis of names from top to bottom, at 0, -1, -2, ..."""
    marks = tuple((-float(i), name) for i, name in enumerate(names))
    return Axis("", limits=(0.6 - len(names), 0.6), marks=marks)
