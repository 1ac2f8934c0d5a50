# SPDX-License-Identifier: Apache-2.0
"""Charts for papers and for print: PNG, SVG and PDF by matplotlib, the same bytes for the same chart.

Fonts travel with the files: outlines in SVG, TrueType (type 42) in PDF, as camera-ready instructions ask. Margins are
set by hand and ticks are given, because measuring text is most of what matplotlib spends on a picture.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes as Frame
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure

from t5x_like.reporting.charts import Axis, Band, Chart, Colour, Dash, Line, Marks, Panel, Rule, Scale
from t5x_like.reporting.palette import LIGHT, SIZES_LIGHT

Array = np.ndarray

WIDTH, HEIGHT = 6.6, 4.2  # inches
_LETTER = 0.075  # inches, about the width of one at the size of tick labels
_SHAPES = {"circle": "o", "square": "s", "diamond": "D"}
_DASHES: dict[Dash, Any] = {"solid": "-", "dash": (0, (4, 2.5)), "dot": ":"}
_SIZES = LinearSegmentedColormap.from_list("sizes", SIZES_LIGHT, N=256)
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures are alike on every machine
    "font.size": 10,
    "axes.edgecolor": "#aab2b9",
    "axes.labelcolor": LIGHT["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "text.color": LIGHT["ink"],
    "text.usetex": False,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "legend.frameon": False,
    "legend.fontsize": 9,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
}


def draw(chart: Chart) -> Figure:
    """Returns the chart as a matplotlib figure."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT))
        frames = _frames(figure, chart)
        for i, (frame, panel) in enumerate(zip(frames, chart.panels, strict=True)):
            _draw_panel(frame, panel, first=i == 0)
        _ends(frames[0], chart)
        if chart.scale:
            _scale(figure, frames[-1], chart.scale)
        if found := _legend(frames):
            place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
            frames[0].legend(list(found.values()), list(found), ncols=len(found), **place)
    return figure


def save(figure: Figure, kind: str, name: str, about: str = "") -> bytes:
    """Returns the bytes of a file of a kind, one of `painter.FORMATS`.
    The chart's `name` seeds the identifiers inside an SVG; `about`, where the numbers come from, is in its metadata."""
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None, "Description": about},
        "svg": {"Date": None, "Creator": None, "Description": about},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Subject": about},
    }
    out = io.BytesIO()
    # Level 4 takes half the time of the default; the files are as large.
    packing: dict[str, Any] = {"pil_kwargs": {"compress_level": 4}} if kind == "png" else {}
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format=kind, dpi=150, metadata=metadata[kind], **packing)
    return out.getvalue()


def write(chart: Chart, path: str | Path | None) -> Figure:
    """Draws the chart, into a file if one is named, of the kind that its ending says."""
    figure = draw(chart)
    if path is not None:
        path = Path(path)
        path.write_bytes(save(figure, path.suffix.lstrip("."), chart.name))
    return figure


def _frames(figure: Figure, chart: Chart) -> list[Frame]:
    """Adds the axes, with room in inches for what stands around them."""
    first = chart.panels[0]
    longest = max((len(text) for _, text in first.y.ticks(first.window("y"))), default=0)
    left = min(2.6, 0.38 * bool(first.y.label) + 0.2 + _LETTER * longest)
    right = 1.0 if chart.scale else 0.85 if chart.ends else 0.2
    top = 0.36 if any(getattr(layer, "name", "") for panel in chart.panels for layer in panel.layers) else 0.14
    low = 0.58 / HEIGHT
    n, gap = len(chart.panels), 0.3
    wide, tall = (WIDTH - left - right - gap * (n - 1)) / n, 1 - low - top / HEIGHT
    return [figure.add_axes(((left + i * (wide + gap)) / WIDTH, low, wide / WIDTH, tall)) for i in range(n)]


def _draw_panel(frame: Frame, panel: Panel, first: bool) -> None:
    across, most = frame.get_position().width * WIDTH, 7
    _axis(frame, "x", panel.x, panel.window("x"), min(most, max(3, int(across / 0.4))))
    _axis(frame, "y", panel.y, panel.window("y"), most)
    if not first:
        frame.set_ylabel("")
        frame.tick_params(labelleft=False)
    for i, layer in enumerate(panel.layers):
        above = 2 + i / 100  # in the order given; grid lines are below 2
        if isinstance(layer, Line):
            style = {"color": _colour(layer.colour), "lw": layer.width, "alpha": layer.opacity}
            frame.plot(layer.x, layer.y, ls=_DASHES[layer.dash], label=layer.name or None, zorder=above, **style)
        elif isinstance(layer, Band):
            known = np.isfinite(layer.low) & np.isfinite(layer.high)
            band = {"color": _colour(layer.colour), "alpha": 0.16, "lw": 0, "zorder": above}
            frame.fill_between(layer.x, layer.low, layer.high, where=known, **band)
        elif isinstance(layer, Marks):
            _marks(frame, layer, above)
        else:
            _rule(frame, layer)


def _axis(frame: Frame, which: str, axis: Axis, window: tuple[float, float], most: int) -> None:
    placed = axis.ticks(window, most)
    own = frame.xaxis if which == "x" else frame.yaxis
    frame.set(**{f"{which}scale": "log" if axis.log else "linear", f"{which}label": axis.label, f"{which}lim": window})
    own.set_major_locator(ticker.FixedLocator([value for value, _ in placed]))
    own.set_major_formatter(ticker.FixedFormatter([text for _, text in placed]))
    own.set_minor_locator(ticker.NullLocator())


def _marks(frame: Frame, layer: Marks, above: float) -> None:
    colours: Any = _colour(layer.colour)
    look: dict[str, Any] = {"facecolors": colours, "edgecolors": "w", "lw": 0.6}
    if layer.hollow:
        look = {"facecolors": "w", "edgecolors": colours, "lw": 1.5}
    if layer.error is not None:
        bars: dict[str, Any] = {"fmt": "none", "ecolor": LIGHT["muted"], "elinewidth": 0.9, "zorder": above}
        frame.errorbar(layer.x, layer.y, yerr=np.nan_to_num(layer.error, posinf=0.0), **bars)
    name = layer.name or None
    marker = _SHAPES[layer.shape]
    frame.scatter(layer.x, layer.y, s=layer.area, marker=marker, alpha=layer.opacity, label=name, zorder=above, **look)


def _rule(frame: Frame, rule: Rule) -> None:
    where: dict[str, Any]
    if rule.vertical:
        frame.axvline(rule.at, color=LIGHT["muted"], lw=0.9, ls=_DASHES[rule.dash], zorder=1)
        at, side = (rule.at, 0.02 if rule.below else 0.98), "bottom" if rule.below else "top"
        where = {"xycoords": ("data", "axes fraction"), "xytext": (4, 0), "color": LIGHT["muted"]}
    else:
        frame.axhline(rule.at, color=LIGHT["ink"], lw=1, ls=_DASHES[rule.dash], zorder=1)
        at, side = (0.01, rule.at), "top" if rule.below else "bottom"
        where = {"xycoords": ("axes fraction", "data"), "xytext": (0, -3 if rule.below else 3)}
    frame.annotate(rule.label, at, textcoords="offset points", va=side, fontsize=8.5, **where)


def _ends(frame: Frame, chart: Chart) -> None:
    written = [(line.end, place, _colour(line.colour), 9.0) for line, place in chart.ends]
    if written and chart.end_title:
        top = max(place for _, place, *_ in written) + 0.065
        written.append((chart.end_title, top, LIGHT["muted"], 8.5))
    for text, place, colour, size in written:
        frame.annotate(text, (1.01, place), xycoords="axes fraction", color=colour, fontsize=size, va="center")


def _scale(figure: Figure, last: Frame, scale: Scale) -> None:
    box = last.get_position()
    bar = figure.add_axes((box.x1 + 0.1 / WIDTH, box.y0, 0.11 / WIDTH, box.height))
    bar.imshow(np.linspace(0, 1, 256)[:, None], cmap=_SIZES, origin="lower", extent=(0, 1, 0, 1), aspect="auto")
    bar.grid(False)
    bar.set_xticks([])
    bar.yaxis.set_ticks_position("right")
    bar.yaxis.set_label_position("right")
    bar.set_yticks([float(scale.place(value)) for value, _ in scale.marks], labels=[text for _, text in scale.marks])
    bar.set_ylabel(scale.label)
    bar.spines[:].set_visible(False)


def _legend(frames: Sequence[Frame]) -> dict[str, Any]:
    """What stands for each name, where it comes first."""
    found: dict[str, Any] = {}
    for frame in frames:
        for handle, name in zip(*frame.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    return found


def _colour(colour: Colour | Array) -> Any:
    if isinstance(colour, str):
        return to_rgba(LIGHT[colour])
    return _SIZES(np.asarray(colour, float))
