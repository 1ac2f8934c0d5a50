# SPDX-License-Identifier: Apache-2.0
"""The charts of a fit: loss by tokens and by compute, optimal sizes, residuals, training curves.

A law of params and tokens gets all of them. Any other law, of one variable or of an accuracy, gets its response
against each variable, and residuals. Open rings are the points that were held out to test the extrapolation; lines are
dashed beyond the largest compute used.
"""

from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.reporting.charts import Axis, Band, Chart, Kind, Layer, Line, Marks, Panel, Rule, Scale
from t5x_like.reporting.wording import count, figure, percent
from t5x_like.scaling.fitting import runs
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.laws.frontier import BEYOND, FRESH, Frontier, can_share, frontier
from t5x_like.scaling.laws.laws import complete
from t5x_like.scaling.uncertainty.intervals import interval

Array = np.ndarray

LOSS = "held-out loss, nats per token"
LABELS: dict[str, tuple[str, Kind]] = {
    "params": ("params", "count"),
    "tokens": ("training tokens", "count"),
    "compute": ("training compute, 6 × params × tokens FLOPs", "power"),
    "flops": ("training compute, FLOPs", "power"),
    "unique_tokens": ("unique tokens", "count"),
}
PARAMS, TOKENS, COMPUTE = (Axis(LABELS[name][0], True, LABELS[name][1]) for name in ("params", "tokens", "compute"))
MOST_LABELLED = 9  # curves that still find room for a label each
_SAMPLES = 60  # points of a curve


def charts(fit: Fit) -> list[Chart]:
    """Returns the charts that the fit has something to show in."""
    if not can_share(fit.law):
        return [*(_by_variable(fit, name) for name in fit.law.variables), _residuals(fit)]
    drawn = [_loss_by_tokens(fit)]
    if fit.compute_optimal:
        compute = fit.points.compute
        flops = np.geomspace(compute.min(), BEYOND * compute.max(), _SAMPLES)
        best = frontier(fit.law, fit.vector, flops)
        draws = frontier(fit.law, fit.draws, flops) if len(fit.draws) else None
        drawn += [_loss_by_compute(fit, best, draws), _optimal_sizes(fit, best, draws)]
    drawn.append(_residuals(fit))
    folder, names = fit.points.folder, fit.points.columns.get("run")
    if folder and names is not None and (curves := runs.read_curves(folder, names, fit.points.params)):
        drawn.append(_curves(fit, curves))
    return drawn


def main_chart(fit: Fit) -> Chart:
    """Returns the first of `charts`."""
    return _loss_by_tokens(fit) if can_share(fit.law) else _by_variable(fit, fit.law.variables[0])


def plot_fit(fit: Fit, path: str | Path | None = None) -> Any:
    """Draws the response against the points, as a matplotlib figure; into a .png, .svg or .pdf file if named.
    Raises UserError: the path has another ending."""
    from t5x_like.reporting import draw_matplotlib
    from t5x_like.reporting.painter import FORMATS

    if path is not None and Path(path).suffix.lstrip(".") not in FORMATS:
        raise UserError(f"{path}: a picture's name ends in {', '.join('.' + kind for kind in FORMATS)}")
    return draw_matplotlib.write(main_chart(fit), path)


def size_scale(params: Array) -> Scale:
    """Returns the colour scale of model sizes."""
    low, high = float(params.min()), float(params.max())
    return Scale("params", low, high, tuple((float(size), count(size)) for size in _representative(params)))


def measured(fit: Fit) -> Array:
    """Returns what the law predicts as it was measured, [n]: losses or accuracies."""
    return fit.points.measured(fit.law.target)


def predicted(fit: Fit) -> Array:
    """Returns the law at each point, [n]."""
    values = measured(fit)
    return values * np.exp(-fit.residuals) if fit.law.relative else values - fit.residuals


def relative(fit: Fit) -> Array:
    """Residuals as shares of the law's loss, or as differences of accuracy, [n]."""
    return np.expm1(fit.residuals) if fit.law.relative else fit.residuals


def in_words(fit: Fit) -> list[dict[str, str]]:
    """Returns what there is to say about each point: run, params, tokens, measured, law, residual."""
    points, n, stderr = fit.points, len(fit.points), _stderr(fit)
    errors = np.full(n, np.nan) if stderr is None else stderr
    columns = (points.columns.get("run", np.full(n, "")), points.params, points.tokens, measured(fit), errors)
    return [
        {
            "run": str(run),
            "params": count(float(params)),
            "tokens": count(float(tokens)),
            "measured": figure(float(value), 4) + (f" ± {figure(float(error), 2)}" if np.isfinite(error) else ""),
            "law": figure(float(law), 4),
            "residual": percent(float(residual), signed=True),
        }
        for run, params, tokens, value, error, law, residual in zip(
            *columns, predicted(fit), relative(fit), strict=True
        )
    ]


def hover(fit: Fit) -> tuple[str, ...]:
    """Returns a text per point: run, sizes, measurement, prediction and residual."""
    return tuple(
        lines_of(
            told["run"],
            f"{told['params']} params, {told['tokens']} tokens",
            f"{fit.law.target} {told['measured']}; law {told['law']}",
            f"residual {told['residual']}",
            "held out as a test" if held else "",
        )
        for told, held in zip(in_words(fit), fit.held_out, strict=True)
    )


def lines_of(*lines: str) -> str:
    """Joins the lines that are not empty."""
    return "\n".join(filter(None, lines))


def _stderr(fit: Fit) -> Array | None:
    """Standard errors of the losses, [n]; None where none is known, or the law is not one of losses."""
    errors = fit.points.columns.get("loss_stderr") if fit.law.target == "loss" else None
    return errors if errors is not None and np.isfinite(errors).any() else None


def _loss_by_tokens(fit: Fit) -> Chart:
    points, scale = fit.points, size_scale(fit.points.params)
    few = len(np.unique(points.params)) <= MOST_LABELLED
    lines = []
    for size in _representative(points.params):
        own = points.tokens[points.params == size] if few else points.tokens
        tokens = np.geomspace(own.min(), points.tokens.max(), _SAMPLES)
        look: dict[str, Any] = {"end": count(size) if few else "", "hover": f"{count(size)} params"}
        lines.append(Line(tokens, _surface(fit, size, tokens), float(scale.place(size)), **look))
    layers = (*_floor(fit), *lines, *_runs(fit, points.tokens, points.loss, scale, _stderr(fit)))
    caption = f"Each point is a run, each curve the fitted law at one model size{_fresh(fit)}"
    panels = (Panel(TOKENS, Axis(LOSS, log=True), layers),)
    return Chart("loss_by_tokens", "Loss by training tokens", caption, panels, *((None, "params") if few else (scale,)))


def _loss_by_compute(fit: Fit, best: Frontier, draws: Frontier | None) -> Chart:
    points, scale = fit.points, size_scale(fit.points.params)
    layers: list[Layer] = [_largest(fit), *_floor(fit)]
    tokens = np.geomspace(points.tokens.min(), points.tokens.max(), _SAMPLES)
    for size in _representative(points.params):
        thin: dict[str, Any] = {"width": 0.9, "opacity": 0.55, "hover": f"{count(size)} params"}
        layers.append(Line(6 * size * tokens, _surface(fit, size, tokens), float(scale.place(size)), **thin))
    layers += _runs(fit, points.compute, points.loss, scale, _stderr(fit))
    band = draws.loss if draws else None
    layers += _line_and_band(fit, best.flops, best.loss, band, "accent", "compute-optimal loss")
    reach = f"to {BEYOND:g} times the largest compute used; thin curves are single model sizes{_fresh(fit)}"
    caption = f"The lowest loss the law allows at each compute, with its 95 % band, {reach}"
    panel = Panel(COMPUTE, Axis(LOSS, log=True), tuple(layers))
    return Chart("loss_by_compute", "Loss by training compute", caption, (panel,), scale)


def _optimal_sizes(fit: Fit, best: Frontier, draws: Frontier | None) -> Chart:
    points = fit.points
    layers: list[Layer] = [_largest(fit, below=True)]
    for name, colour, shape, power in (("tokens", "second", "square", best.b), ("params", "accent", "circle", best.a)):
        label = f"optimal {name}, as C^{figure(float(power))}"
        replicates = np.asarray(getattr(draws, name)) if draws else None
        marks: dict[str, Any] = {"area": 16.0, "shape": shape, "opacity": 0.4, "hover": hover(fit)}
        layers.append(Marks(points.compute, getattr(points, name), colour, **marks))
        layers += _line_and_band(fit, best.flops, getattr(best, name), replicates, colour, label)
    panel = Panel(COMPUTE, Axis("params or tokens", log=True, kind="count"), tuple(layers))
    caption = "Params and tokens that lower the loss most at each compute, with 95 % bands; faint marks are the runs."
    return Chart("optimal_sizes", "Compute-optimal sizes", caption, (panel,))


def _residuals(fit: Fit) -> Chart:
    scale, share, stderr = size_scale(fit.points.params), 100 * relative(fit), _stderr(fit)
    errors = None if stderr is None else 100 * stderr / fit.points.loss
    reach = 1.15 * max(float(np.abs(share).max()), 1e-6)
    y = Axis("measured minus law, %", limits=(-reach, reach))
    panels = []
    for name in ("params", "tokens") if can_share(fit.law) else fit.law.variables[:2]:
        x, zero = _column(fit, name), Rule(0.0, dash="solid")
        panels.append(Panel(_axis(name, x, short=True), y, (zero, *_runs(fit, x, share, scale, errors))))
    caption = "Trends here, rather than scatter, mean that the law bends where the runs do not, or the other way round."
    return Chart("residuals", "Residuals", caption, tuple(panels), scale)


def _curves(fit: Fit, curves: list[runs.Curve]) -> Chart:
    points, scale = fit.points, size_scale(fit.points.params)
    lines = [
        Line(curve.tokens, curve.loss, float(scale.place(curve.params)), hover=curve.run, width=1.0, opacity=0.8)
        for curve in curves
    ]
    dots = Marks(points.tokens, points.loss, scale.place(points.params), hover=hover(fit), area=16.0)
    axes = Axis("tokens seen", log=True, kind="count"), Axis("loss, nats per token", log=True)
    panel = Panel(*axes, (*_floor(fit), *lines, dots))
    caption = "Loss as each run trained; dots are the held-out losses that were fitted."
    return Chart("training_curves", "Training curves", caption, (panel,), scale)


def _by_variable(fit: Fit, name: str) -> Chart:
    """The response against one variable, with the law's curve where all others have their middle value."""
    x, target = _column(fit, name), fit.law.target
    axis, loss = _axis(name, x), target == "loss"
    along = (np.geomspace if axis.log else np.linspace)(x.min(), x.max(), _SAMPLES)
    others = {other: np.median(_column(fit, other)) for other in fit.law.variables if other != name}
    curve = np.broadcast_to(fit.law.predict(fit.parameters, complete({**others, name: along})), along.shape)
    scale = size_scale(fit.points.params)
    layers = (
        *(_floor(fit) if loss else ()),
        Line(along, curve, "accent", name="fitted law", width=2.0, hover="law"),
        *_runs(fit, x, measured(fit), scale, _stderr(fit)),
    )
    middle = ", ".join(f"{other} {figure(float(value))}" for other, value in others.items())
    caption = f"Each point is a run, the curve is the fitted law{f' at {middle} (the medians)' if middle else ''}."
    word = "compute" if name == "flops" else name.replace("_", " ")
    panel = Panel(axis, Axis(LOSS if loss else target, log=loss), layers)
    return Chart(f"{target}_by_{name}", f"{target.capitalize()} by {word}", caption, (panel,), scale)


def _axis(name: str, values: Array, short: bool = False) -> Axis:
    text, kind = LABELS.get(name, (name, "number"))
    return Axis(text.split(",")[0] if short else text, log=bool((values > 0).all()), kind=kind)


def _column(fit: Fit, name: str) -> Array:
    return np.asarray(complete(fit.points.variables)[name], float)


def _surface(fit: Fit, params: Any, tokens: Any) -> Array:
    variables = {**FRESH, "params": np.asarray(params, float), "tokens": np.asarray(tokens, float)}
    return np.broadcast_to(fit.law.predict(fit.parameters, variables), np.shape(tokens))


def _fresh(fit: Fit) -> str:
    return ", all data being fresh." if "unique_tokens" in fit.law.variables else "."


def _representative(params: Array) -> Array:
    """Returns all model sizes, or, of many, some evenly spaced in the logarithm."""
    sizes = np.unique(params)
    return sizes if len(sizes) <= MOST_LABELLED else np.geomspace(sizes[0], sizes[-1], 7)


def _runs(fit: Fit, x: Array, y: Array, scale: Scale, errors: Array | None) -> list[Layer]:
    """Runs as dots, held-out ones as rings, with standard errors where they are known."""
    area, out, texts = 34.0 if len(x) <= 60 else 14.0, fit.held_out, np.array(hover(fit))
    places = scale.place(fit.points.params)
    layers: list[Layer] = []
    for chosen, hollow, name in ((~out, False, ""), (out, True, "held out as a test")):
        if chosen.any():
            look: dict[str, Any] = {"hover": tuple(texts[chosen]), "name": name, "area": area, "hollow": hollow}
            bars = None if errors is None else errors[chosen]
            layers.append(Marks(x[chosen], y[chosen], places[chosen], **look, error=bars))
    return layers


def _line_and_band(fit: Fit, x: Array, line: Array, draws: Array | None, colour: str, label: str) -> list[Layer]:
    """The line, dashed beyond the largest compute used, over the 95 % band of the replicates."""
    inside = x <= fit.points.compute.max() * (1 + 1e-9)
    beyond = ~inside
    beyond[max(0, int(inside.sum()) - 1)] = True  # begins where the other ends
    layers: list[Layer] = [Band(x, *interval(draws), colour)] if draws is not None else []
    layers.append(Line(x[inside], line[inside], colour, name=label, hover=label, width=2.0))
    layers.append(Line(x[beyond], line[beyond], colour, hover=f"{label}, beyond the runs", width=2.0, dash="dash"))
    return layers


def _largest(fit: Fit, below: bool = False) -> Rule:
    return Rule(float(fit.points.compute.max()), vertical=True, label="largest run", dash="dot", below=below)


def _floor(fit: Fit) -> list[Layer]:
    """Marks E and the exact entropy, when they are near enough to the points not to squeeze them."""
    low, high = np.log(fit.points.loss.min()), np.log(fit.points.loss.max())
    marks = [(fit.parameters.get("E"), "E", "dash"), (fit.points.exact_entropy, "exact entropy", "dot")]
    near = sorted((v, name, dash) for v, name, dash in marks if v and np.log(v) > low - 0.8 * (high - low))
    # The lower one's name goes below it, so that the two cannot collide.
    return [
        Rule(float(value), label=f"{name} = {figure(value, 4)}", dash=dash, below=i == 0 and len(near) == 2)  # type: ignore[arg-type]
        for i, (value, name, dash) in enumerate(near)
    ]
