# SPDX-License-Identifier: Apache-2.0
"""Charts of the analyses that hang on a fit, from their plain data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.reporting.charts import Axis, Band, Chart, Layer, Line, Marks, Panel, Rule, Scale, Shape, Tick, ticks
from t5x_like.reporting.palette import SERIES
from t5x_like.reporting.wording import count, figure, percent, span
from t5x_like.scaling.report.plots import LABELS, LOSS, PARAMS, TOKENS, lines_of, size_scale

Array = np.ndarray
Found = dict[str, Any]

_SAMPLES = 60
_MOST_EXPONENTS = 4
_SHAPES: tuple[Shape, ...] = ("circle", "square", "diamond", "circle")


def leaderboard(found: Found) -> Chart:
    """Errors on runs left out, a law a line, the best on top."""
    tests = {"leave one out": "leave_one_out_rms", "larger runs from smaller": "rolling_origin_rms"}
    errors = {name: [row[key] for row in found["rows"]] for name, key in tests.items()}
    y, layers = _by_row(
        [row["law"] for row in found["rows"]], errors, lambda name, v: f"{name}: {percent(v / 100)}", 100
    )
    caption = "Root mean square error of each law on runs that its fit did not see; the best law is on top."
    panel = Panel(Axis("error on runs left out, %", log=True), y, layers)
    return Chart("leaderboard", "Laws compared", caption, (panel,))


def sensitivity(rows: Sequence[Found], names: Sequence[str], name: str, title: str, caption: str) -> Chart | None:
    """Parameters by setting; `names` are those to show, each in a colour. None where no setting has them."""
    known = [row for row in rows if row["parameters"]]
    names = [each for each in names if known and each in known[0]["parameters"]][:_MOST_EXPONENTS]
    if not names:
        return None
    values = {each: [row["parameters"][each] for row in known] for each in names}
    y, layers = _by_row([row["setting"] for row in known], values, lambda each, v: f"{each} {figure(v)}")
    return Chart(name, title, caption, (Panel(Axis("value"), y, layers),))


def coverage(found: Found) -> Chart:
    """The share of simulations in which each method's interval holds the truth, a quantity a line."""
    shares = {method: result["coverage"] for method, result in found["methods"].items()}
    y, layers = _by_row(found["quantities"], shares, lambda method, v: f"{method}: {v:.1f} %", 100)
    nominal = Rule(95.0, vertical=True, label="nominal", dash="dash", below=True)
    caption = f"How often nominal 95 % intervals held the truth in {found['simulations']} simulations of this design."
    return Chart("coverage", "Coverage of the intervals", caption, (Panel(Axis("coverage, %"), y, (nominal, *layers)),))


def _by_row(
    rows: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    show: Callable[[str, float], str],
    unit: float = 1,
) -> tuple[Axis, tuple[Layer, ...]]:
    """An axis of names from top to bottom, at 0, -1, -2, ..., and each series as marks of one look, times `unit`."""
    layers = []
    for (name, values), colour, shape in zip(series.items(), SERIES, _SHAPES, strict=False):
        x = unit * np.array(values, float)
        known = np.flatnonzero(np.isfinite(x))
        told = tuple(f"{rows[i]}\n{show(name, float(x[i]))}" for i in known.tolist())
        if known.size:
            layers.append(Marks(x[known], -known.astype(float), colour, hover=told, name=name, shape=shape))
    marks = tuple((-float(i), row) for i, row in enumerate(rows))
    return Axis("", limits=(0.6 - len(rows), 0.6), marks=marks), tuple(layers)


def influence(found: Found, quantity: str | None = None) -> Chart:
    """Points by params and tokens, their area the largest shift that leaving them out causes, or that of a quantity."""
    rows = [
        {**row, "moves": quantity, "largest": row["shifts"][quantity]} if quantity else row for row in found["rows"]
    ]
    rows = sorted(rows, key=lambda row: -abs(row["largest"]))  # small ones last, so that none is hidden
    area = 8.0 + 420.0 * np.array([abs(row["largest"]) for row in rows]) / max(abs(rows[0]["largest"]), 1e-12)
    params, tokens = (np.array([row[name] for row in rows]) for name in ("params", "tokens"))
    scale = size_scale(params)
    told = tuple(
        lines_of(
            row.get("run", ""),
            f"{count(row['params'])} params, {count(row['tokens'])} tokens",
            f"loss {figure(row['loss'], 4)}, residual {percent(row['residual'], signed=True)}",
            f"without it, {row['moves']} moves by {row['shifts'][row['moves']]:+.2f} standard errors",
        )
        for row in rows
    )
    marks = Marks(params, tokens, scale.place(params), hover=told, area=area, opacity=0.75)
    caption = f"A point's area is how far leaving it out moves {quantity or 'any quantity'}, in standard errors of the "
    panel = Panel(PARAMS, TOKENS, (marks,))
    return Chart("influence", "Influence of single points", f"{caption}whole fit.", (panel,), scale)


def isoflop_valleys(found: Found, params: Array, loss: Array) -> Chart:
    """Loss over size at each budget, the fitted curves, and their minima."""
    scale = _budget_scale(found)
    runs: list[Layer] = []
    lines: list[Layer] = []
    minima: list[Layer] = []
    for budget in found["budgets"]:
        rows, place = np.array(budget["rows"], int), float(scale.place(budget["flops"]))
        name = f"{figure(budget['flops'])} FLOPs"
        told = tuple(
            f"{name}\n{count(n)} params\nloss {figure(float(y), 4)}"
            for n, y in zip(params[rows].tolist(), loss[rows], strict=True)
        )
        runs.append(Marks(params[rows], loss[rows], np.full(len(rows), place), hover=told, area=16.0))
        curve = budget["curves"][found["form"]]
        if not curve:
            continue
        sizes = np.geomspace(params[rows].min(), params[rows].max(), _SAMPLES)
        fitted = np.polynomial.polynomial.polyval(np.log(sizes) - curve["center"], curve["coefficients"])
        lines.append(Line(sizes, fitted, place, hover=name, dash="dot" if curve["problem"] else "solid", width=1.2))
        if not curve["problem"]:
            best = f"{name}\nbest {count(curve['params'])} params\nloss {figure(curve['loss'], 4)}"
            at = (np.array([curve["params"]]), np.array([curve["loss"]]))
            minima.append(Marks(*at, "accent", hover=(best,), shape="diamond", name="minimum" if not minima else ""))
    panel = Panel(PARAMS, Axis(LOSS, log=True), (*lines, *runs, *minima))
    caption = f"Runs of equal compute, a {found['form']} through each budget; dotted where it has no minimum inside."
    return Chart("isoflop", "Loss by size at equal compute", caption, (panel,), scale)


def _budget_scale(found: Found) -> Scale:
    flops = [budget["flops"] for budget in found["budgets"]]
    low, high = min(flops), max(flops)
    marks = [(low, figure(low, 2))] if high < low * 1.2 else ticks(low, high, log=True, kind="power", most=6)
    return Scale("FLOPs", low, high, tuple(marks))


def isoflop_sizes(found: Found) -> Chart:
    """The best size of each budget, the power law through them, and the fitted surface's optimum."""
    form = found["form"]
    fitted = [(budget["flops"], budget["curves"][form]) for budget in found["budgets"]]
    good = [(flops, curve) for flops, curve in fitted if curve and not curve["problem"]]
    flops, best = np.array([f for f, _ in good]), np.array([curve["params"] for _, curve in good])
    error = np.abs(_ends([curve["intervals"]["params"] for _, curve in good]) - best)
    told = tuple(
        f"{figure(f)} FLOPs\nbest {count(curve['params'])} params\n95 %: {span(curve['intervals']['params'], count)}"
        for f, curve in good
    )
    layers: list[Layer] = []
    law = found["laws"].get(form, {}).get("params")
    if law and len(flops) > 1:
        along = np.geomspace(flops.min(), flops.max(), 2)
        name = f"through the minima: C^{figure(law['exponent'])}"
        power = law["coefficient"] * along ** law["exponent"]
        layers.append(Line(along, power, "accent", name=name, hover=name, width=2))
    against = found.get("against_surface")
    if against and against["rows"]:
        x, y = (np.array([row[key] for row in against["rows"]]) for key in ("flops", "surface_params"))
        name = f"the fitted law: C^{figure(against['surface_a'])}"
        layers.append(Line(x, y, "second", name=name, hover=name, width=2, dash="dash"))
    bars = np.where(np.isfinite(error), error, 0)
    layers.append(Marks(flops, best, "accent", hover=told, shape="diamond", error=bars))
    caption = "Diamonds: the best size read off each budget alone, with 95 % intervals where they are bounded."
    panel = Panel(Axis(LABELS["flops"][0], log=True, kind="power"), PARAMS, tuple(layers))
    return Chart("isoflop_sizes", "Best size by budget", caption, (panel,))


def comparison(found: Found) -> Chart:
    """The compute multiplier by loss, with its interval; dashed where either arm is extrapolated."""
    a, b = found["names"]
    rows = [row for row in found["rows"] if row["multiplier"] is not None]
    loss, worth = (np.array([row[key] for row in rows], float) for key in ("loss", "multiplier"))
    texts = [
        f"loss {figure(row['loss'], 4)}\n{b} is worth {figure(row['multiplier'])} times its compute\n"
        f"95 %: {span(row['interval'])}{', extrapolated' if row['extrapolated'] else ''}"
        for row in rows
    ]
    told = np.array(texts)
    beyond = np.array([row["extrapolated"] for row in rows], bool)
    low, high = _ends([row["interval"] or [None, None] for row in rows])
    band = Band(loss, low, high, "accent")
    layers: list[Layer] = [Rule(1.0, label="equal", dash="dash"), band, Line(loss, worth, "accent", width=2.0)]
    for chosen, hollow, name in ((~beyond, False, ""), (beyond, True, "extrapolated")):
        if chosen.any():
            at = (loss[chosen], worth[chosen])
            layers.append(Marks(*at, "accent", hover=tuple(told[chosen]), hollow=hollow, name=name))
    ratio = f"Compute that {a} needs for a loss over what {b} needs for it"
    caption = f"{ratio}, with its 95 % band; above 1, {b} is better."
    panel = Panel(Axis(LOSS, log=True), Axis("compute multiplier", log=True), tuple(layers))
    return Chart("comparison", f"{b} against {a}", caption, (panel,))


def intervals(found: dict[str, dict[str, Any]], estimates: dict[str, float]) -> Chart:
    """Intervals by method, relative to the estimate, a parameter a group; unbounded ones are in the table only."""
    names = [name for name, value in estimates.items() if value > 0]
    layers: list[Layer] = [Rule(1.0, vertical=True, label="estimate", dash="dash")]
    marks: tuple[Tick, ...] = tuple((-float(j), name) for j, name in enumerate(names))
    for i, ((method, by_name), colour) in enumerate(zip(found.items(), SERIES, strict=False)):
        shown = method
        for centre, name in marks:
            pair = by_name.get(name)
            if pair is None or None in pair:
                continue
            at = centre + 0.14 * ((len(found) - 1) / 2 - i)
            ends = np.array(pair, float) / estimates[name]
            told = f"{name}, {method}: {span(pair)}"
            layers.append(Line(ends, np.array([at, at]), colour, name=shown, hover=told, width=3.0))
            shown = ""  # once is enough in the legend
    y = Axis("", limits=(0.4 - len(names), 0.6), marks=marks)
    caption = "95 % intervals of each parameter by method, as multiples of the estimate, where they have two ends."
    panel = Panel(Axis("interval over estimate"), y, tuple(layers))
    return Chart("intervals", "Intervals by method", caption, (panel,))


def _ends(pairs: Sequence[Sequence[float | None]]) -> Array:
    """Lows and highs [2, n], NaN where an interval is unbounded."""
    return np.array(pairs, float).reshape(-1, 2).T
