# SPDX-License-Identifier: Apache-2.0
"""Pictures of a fit, as PNG bytes: loss by tokens and by compute, optimal sizes, residuals, training curves.

One colour scale throughout: a model's size, dark for the smallest to light green for the largest (viridis without its
yellow end, which vanishes on white; it stays readable without colour vision and in grey). Open rings are the points
that were held out to test the extrapolation.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from t5x_like.scaling import runs
from t5x_like.scaling.fit import Fit
from t5x_like.scaling.frontier import BEYOND, frontier
from t5x_like.scaling.intervals import interval
from t5x_like.scaling.wording import count, figure

Array = np.ndarray

SIZES = ListedColormap(mpl.colormaps["viridis"](np.linspace(0.0, 0.86, 256)))
INK, MUTED, GRID, ACCENT, SECOND = "#22262b", "#667079", "#e7eaed", "#c2410c", "#1d4ed8"
COMPUTE = "training compute, 6 × params × tokens FLOPs"
MOST_LABELLED = 9  # curves that still find room for a label each
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": "#aab2b9",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.facecolor": "w",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "legend.fontsize": 9,
}


@dataclass(frozen=True)
class Picture:
    """A PNG with its file name, title and caption."""

    name: str
    title: str
    caption: str
    png: bytes


def pictures(fit: Fit) -> list[Picture]:
    """Returns the pictures that the fit has something to show in."""
    drawn = [_draw("loss_by_tokens.png", "Loss by training tokens", _loss_by_tokens, fit)]
    if fit.compute_optimal:
        drawn.append(_draw("loss_by_compute.png", "Loss by training compute", _loss_by_compute, fit))
        drawn.append(_draw("optimal_sizes.png", "Compute-optimal sizes", _optimal_sizes, fit))
    drawn.append(_draw("residuals.png", "Residuals", _residuals, fit))
    if curves := training_curves(fit):
        drawn.append(_draw("training_curves.png", "Training curves", lambda f, fit: _curves(f, fit, curves), fit))
    return drawn


def training_curves(fit: Fit) -> list[runs.Curve]:
    """Returns the loss curves of the runs that were fitted, where their folders are at hand."""
    names = fit.points.columns.get("run")
    if fit.points.folder is None or names is None:
        return []
    return runs.read_curves(fit.points.folder, names, fit.points.params)


def _draw(name: str, title: str, draw: Callable[[Figure, Fit], str], fit: Fit) -> Picture:
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(6.6, 4.3), layout="constrained")
        caption = draw(canvas, fit)
        out = io.BytesIO()
        canvas.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return Picture(name, title, caption, out.getvalue())


def _loss_by_tokens(canvas: Figure, fit: Fit) -> str:
    points = fit.points
    axes = _log_axes(canvas.add_subplot(), "training tokens", "held-out loss, nats per token")
    shade, norm = _shades(points.params)
    _scatter(axes, fit, points.tokens, points.loss, shade(points.params), points.columns.get("loss_stderr"))
    few = len(np.unique(points.params)) <= MOST_LABELLED
    ends = []
    for size in _representative(points.params):
        own = points.tokens[points.params == size] if few else points.tokens
        tokens = np.geomspace(own.min(), points.tokens.max(), 200)
        loss = fit.predict(size, tokens)
        axes.plot(tokens, loss, color=shade(size), lw=1.4, alpha=0.9, zorder=2)
        ends.append((float(loss[-1]), count(size), shade(size)))
    _floor(axes, fit)
    _loss_ticks(axes)
    _few_decades(axes)
    if few:
        _labels_at_the_end(axes, ends, "params")
    else:
        _size_bar(canvas, axes, norm, points.params)
    return "Each point is a run, each curve the fitted law at one model size."


def _loss_by_compute(canvas: Figure, fit: Fit) -> str:
    points = fit.points
    axes = _log_axes(canvas.add_subplot(), COMPUTE, "held-out loss, nats per token")
    shade, norm = _shades(points.params)
    _scatter(axes, fit, points.compute, points.loss, shade(points.params), points.columns.get("loss_stderr"))
    for size in _representative(points.params):
        tokens = np.geomspace(points.tokens.min(), points.tokens.max(), 200)
        axes.plot(6 * size * tokens, fit.predict(size, tokens), color=shade(size), lw=0.9, alpha=0.5, zorder=1)
    flops = _budgets(fit)
    best, draws = frontier(fit.law, fit.vector, flops), frontier(fit.law, fit.draws, flops)
    _line_and_band(axes, flops, best.loss, draws.loss, ACCENT, "compute-optimal loss", fit)
    _largest(axes, fit)
    _floor(axes, fit)
    _loss_ticks(axes)
    axes.legend(loc="upper right")
    _size_bar(canvas, axes, norm, points.params)
    return (
        "The lowest loss the law allows at each compute, with its 95 % band, "
        f"to {BEYOND:g} times the largest compute used; thin curves are single model sizes."
    )


def _optimal_sizes(canvas: Figure, fit: Fit) -> str:
    points = fit.points
    axes = _log_axes(canvas.add_subplot(), COMPUTE, "params or tokens")
    flops = _budgets(fit)
    best, draws = frontier(fit.law, fit.vector, flops), frontier(fit.law, fit.draws, flops)
    for name, colour, marker in (("tokens", SECOND, "s"), ("params", ACCENT, "o")):
        power = figure(float(getattr(best, "a" if name == "params" else "b")))
        label = f"optimal {name}, as C^{power}"
        _line_and_band(axes, flops, _of(best, name), _of(draws, name), colour, label, fit)
        axes.scatter(points.compute, _of(points, name), s=16, marker=marker, color=colour, alpha=0.35, lw=0, zorder=2)
    _largest(axes, fit)
    axes.legend(loc="upper left")
    return "Params and tokens that lower the loss most at each compute, with 95 % bands; faint marks are the runs."


def _residuals(canvas: Figure, fit: Fit) -> str:
    points = fit.points
    shade, norm = _shades(points.params)
    left, right = canvas.subplots(1, 2, sharey=True)
    percent = 100 * np.expm1(fit.residuals)
    for axes, x, label in ((left, points.params, "params"), (right, points.tokens, "training tokens")):
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.axhline(0, color=INK, lw=1, zorder=1)
        stderr = points.columns.get("loss_stderr")
        errors = None if stderr is None else 100 * stderr / points.loss
        _scatter(axes, fit, x, percent, shade(points.params), errors, legend=axes is right)
        _few_decades(axes)
    left.set_ylabel("measured above (+) or below (−) the law, %")
    reach = 1.15 * max(float(np.abs(percent).max()), 1e-6)
    left.set_ylim(-reach, reach)
    _size_bar(canvas, [left, right], norm, points.params)
    return "Trends here, rather than scatter, mean that the law bends where the losses do not, or the other way round."


def _curves(canvas: Figure, fit: Fit, curves: list[runs.Curve]) -> str:
    axes = _log_axes(canvas.add_subplot(), "tokens seen", "loss, nats per token")
    shade, norm = _shades(fit.points.params)
    for curve in curves:
        axes.plot(curve.tokens, curve.loss, color=shade(curve.params), lw=1, alpha=0.8)
    axes.scatter(fit.points.tokens, fit.points.loss, s=16, c=shade(fit.points.params), lw=0.6, edgecolors="w", zorder=3)
    _floor(axes, fit)
    _loss_ticks(axes)
    _few_decades(axes)
    _size_bar(canvas, axes, norm, fit.points.params)
    return "Loss as each run trained; dots are the held-out losses that were fitted."


def _of(source: Any, name: str) -> Array:
    return np.asarray(getattr(source, name))


def _budgets(fit: Fit) -> Array:
    compute = fit.points.compute
    return np.geomspace(compute.min(), BEYOND * compute.max(), 120)


def _shades(params: Array) -> tuple[Callable[[Any], Any], LogNorm]:
    """Returns size -> colour, and the scale behind it."""
    low, high = float(params.min()), float(params.max())
    norm = LogNorm(low, high if high > low else low * 1.01)
    return lambda size: SIZES(norm(size)), norm


def _representative(params: Array) -> Array:
    """Returns all model sizes, or, of many, some evenly spaced in the logarithm."""
    sizes = np.unique(params)
    return sizes if len(sizes) <= MOST_LABELLED else np.geomspace(sizes[0], sizes[-1], 7)


def _log_axes(axes: Axes, x: str, y: str) -> Axes:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def _scatter(
    axes: Axes, fit: Fit, x: Array, y: Array, colours: Array, errors: Array | None = None, legend: bool = True
) -> None:
    """Draws runs as dots, held-out ones as rings, with standard errors where they are known."""
    size = 34 if len(x) <= 60 else 14
    if errors is not None and np.isfinite(errors).any():
        axes.errorbar(x, y, yerr=np.nan_to_num(errors), fmt="none", ecolor=MUTED, elinewidth=0.9, zorder=2)
    out = fit.held_out
    axes.scatter(x[~out], y[~out], s=size, c=colours[~out], edgecolors="w", lw=0.6, zorder=3)
    label = "held out as a test" if legend and out.any() else None
    axes.scatter(x[out], y[out], s=size, facecolors="w", edgecolors=colours[out], lw=1.5, zorder=3, label=label)
    if label:
        axes.legend(loc="best")


def _line_and_band(axes: Axes, x: Array, line: Array, draws: Array, colour: str, label: str, fit: Fit) -> None:
    """Draws the line, dashed beyond the largest compute used, over the 95 % band of the replicates."""
    inside = x <= fit.points.compute.max()
    axes.plot(x[inside], line[inside], color=colour, lw=2, label=label, zorder=4)
    axes.plot(x[~inside], line[~inside], color=colour, lw=2, ls=(0, (3, 2)), zorder=4)
    if len(draws):
        low, high = interval(draws)
        axes.fill_between(x, low, high, where=np.isfinite(low) & np.isfinite(high), color=colour, alpha=0.15, lw=0)


def _largest(axes: Axes, fit: Fit) -> None:
    axes.axvline(fit.points.compute.max(), color=MUTED, lw=0.9, ls=":", zorder=1)
    axes.annotate(
        "largest run",
        (fit.points.compute.max(), 1.01),
        xycoords=("data", "axes fraction"),
        ha="center",
        color=MUTED,
        fontsize=8.5,
    )


def _floor(axes: Axes, fit: Fit) -> None:
    """Marks E and the exact entropy at the left, when they are near enough to the points not to squeeze them."""
    low, high = np.log(fit.points.loss.min()), np.log(fit.points.loss.max())
    marks = [(fit.parameters.get("E"), "E", "--"), (fit.points.exact_entropy, "exact entropy", ":")]
    near = sorted((v, name, dashes) for v, name, dashes in marks if v and np.log(v) > low - 0.8 * (high - low))
    for i, (value, name, dashes) in enumerate(near):
        axes.axhline(value, color=INK, lw=1, ls=dashes, zorder=1)
        below = i == 0 and len(near) == 2  # the lower one's name goes below it, so that the two cannot collide
        axes.annotate(
            f"{name} = {figure(value, 4)}",
            (0.01, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, -3 if below else 3),
            textcoords="offset points",
            va="top" if below else "bottom",
            fontsize=8.5,
        )
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom * (bottom / top) ** 0.03, top)


def _loss_ticks(axes: Axes) -> None:
    """Round numbers on a logarithmic axis that spans less than a decade, where matplotlib labels almost nothing."""
    low, high = axes.get_ylim()
    ticks = ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.yaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylim(low, high)


def _few_decades(axes: Axes) -> None:
    """Labels 1, 2, 5 per decade when an axis spans too little for powers of ten alone."""
    low, high = axes.get_xlim()
    if np.log10(high / low) < 2.2:
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if np.log10(high / low) < 1.3 else (1, 3)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: count(value, trim=True)))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _labels_at_the_end(axes: Axes, ends: list[tuple[float, str, Any]], title: str) -> None:
    """Writes each curve's name beside its right end, pushed apart where they would overlap."""
    low, high = np.log(axes.get_ylim())
    wanted = np.array([(np.log(value) - low) / (high - low) for value, _, _ in ends])
    order = np.argsort(wanted)
    places = _spread(wanted[order], gap=0.045)
    for place, i in zip(places, order, strict=True):
        axes.annotate(ends[i][1], (1.01, place), xycoords="axes fraction", color=ends[i][2], fontsize=9, va="center")
    axes.annotate(title, (1.01, places[-1] + 0.06), xycoords="axes fraction", color=MUTED, fontsize=8.5, va="center")


def _spread(places: Array, gap: float) -> Array:
    """Moves sorted places apart to at least `gap`, as little as alternating pushes find."""
    places = places.copy()
    for _ in range(200):
        short = gap - np.diff(places)
        if (short <= 1e-9).all():
            break
        push = np.maximum(short, 0) / 2
        places[:-1] -= push
        places[1:] += push
    return places


def _size_bar(canvas: Figure, axes: Any, norm: LogNorm, params: Array) -> None:
    bar = canvas.colorbar(ScalarMappable(norm, SIZES), ax=axes, pad=0.015, aspect=35)
    bar.outline.set_visible(False)
    sizes = _representative(params)
    bar.set_ticks(list(sizes), labels=[count(size) for size in sizes])
    bar.ax.minorticks_off()
    bar.set_label("params")
