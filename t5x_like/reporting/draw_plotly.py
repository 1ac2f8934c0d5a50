# SPDX-License-Identifier: Apache-2.0
"""Charts to explore: what plotly.js needs, as plain JSON. The Python library is not imported, only its file is read.

Colours are left open as `@role`, `@place on the scale`, with `/opacity` behind: `page.js` fills them in, in
light or dark mode, and takes `narrow` over `layout` on a phone.
"""

import gzip
import html
import importlib.util
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.reporting.charts import Axis, Chart, Colour, Layer, Line, Marks, Panel, Rule, label

Array = np.ndarray

_GAP = 0.06  # between panels, as a share of the width
# How the library writes numbers when a reader zooms: 2.1M and 1B, 10^22, 0.25.
_EXPONENTS = {"count": "B", "power": "power", "number": "none"}


def figure(chart: Chart) -> dict[str, Any]:
    """Returns {"data", "layout", "narrow"} for plotly.js."""
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "height": 420,
        "margin": {"l": 62, "r": 84 if chart.scale else 62 if chart.ends else 14, "t": 40, "b": 56},
        "hovermode": "closest",
        "showlegend": any(getattr(layer, "name", "") for panel in chart.panels for layer in panel.layers),
        "legend": {"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        "annotations": [],
    }
    n = len(chart.panels)
    narrow: dict[str, Any] = {"height": 330 + 250 * (n - 1), "margin": {"l": 52, "r": 12, "t": 44, "b": 52}}
    named: set[str] = set()
    for i, panel in enumerate(chart.panels):
        own = "" if i == 0 else str(i + 1)
        _axes(layout, narrow, panel, own, i, n)
        for layer in panel.layers:
            if isinstance(layer, Rule) and layer.label:
                layout["annotations"].append(_rule_label(panel, layer, own))
            drawn = {"xaxis": f"x{own}", "yaxis": f"y{own}", **_trace(panel, layer)}
            drawn["showlegend"] = bool(drawn.get("name")) and drawn["name"] not in named
            named.add(drawn.get("name", ""))
            traces.append(drawn)
    _ends(layout, narrow, chart)
    if chart.scale:
        traces.append(_scale_bar(chart))
        narrow["margin"]["b"] = 118
        narrow["height"] += 62
    return {"data": traces, "layout": layout, "narrow": narrow}


@cache
def library() -> str | None:
    """Returns plotly.js, compressed by gzip and in base64, or None where the package plotly is not installed."""
    found = importlib.util.find_spec("plotly")
    path = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    if path is None or not path.is_file():
        return None
    return b64encode(gzip.compress(path.read_bytes(), 5, mtime=0)).decode()


def _axes(layout: dict[str, Any], narrow: dict[str, Any], panel: Panel, own: str, i: int, n: int) -> None:
    share = (1 - _GAP * (n - 1)) / n
    across = [i * (share + _GAP), i * (share + _GAP) + share]
    tall = (1 - 0.2 * (n - 1)) / n
    top = 1 - i * (tall + 0.2)
    layout[f"xaxis{own}"] = _axis(panel.x, panel.window("x")) | {"domain": across, "anchor": f"y{own}"}
    layout[f"yaxis{own}"] = _axis(panel.y, panel.window("y")) | {"anchor": f"x{own}"}
    if i > 0:
        layout[f"yaxis{own}"] |= {"matches": "y", "showticklabels": False, "title": {"text": ""}}
        narrow[f"yaxis{own}"] = {"showticklabels": True}
    narrow[f"xaxis{own}"] = {"domain": [0, 1], **_ticks(panel.x, panel.window("x"), most=4)}
    narrow.setdefault(f"yaxis{own}", {})["domain"] = [max(0.0, top - tall), top]


def _axis(axis: Axis, window: tuple[float, float]) -> dict[str, Any]:
    change = np.log10 if axis.log else np.asarray
    return {
        "type": "log" if axis.log else "linear",
        "range": [_short(float(change(end))) for end in window],
        "title": {"text": html.escape(axis.label), "standoff": 8},
        "exponentformat": _EXPONENTS[axis.kind],
        "zeroline": False,
        "automargin": axis.marks is not None,  # names are long
        **_ticks(axis, window, most=7),
    }


def _ticks(axis: Axis, window: tuple[float, float], most: int) -> dict[str, Any]:
    """The ticks of the window that is shown first; `page.js` lets the library find its own when a reader zooms."""
    placed = axis.ticks(window, most)
    return {"tickvals": [value for value, _ in placed], "ticktext": [html.escape(text) for _, text in placed]}


def _trace(panel: Panel, layer: Layer) -> dict[str, Any]:
    if isinstance(layer, Rule):
        return _rule(panel, layer)
    if isinstance(layer, Line):
        return _line(panel, layer)
    if isinstance(layer, Marks):
        return _marks(layer)
    known = np.isfinite(layer.low) & np.isfinite(layer.high)
    x, low, high = layer.x[known], layer.low[known], layer.high[known]
    x, y = np.concatenate([x, x[::-1]]), np.concatenate([high, low[::-1]])
    look: dict[str, Any] = {"fill": "toself", "fillcolor": f"{_colour(layer.colour)}/0.17", "line": {"width": 0}}
    return _scatter("lines", x, y, hoverinfo="skip", **look)


def _scatter(mode: str, x: Array, y: Array, **more: Any) -> dict[str, Any]:
    return {"type": "scatter", "mode": mode, "x": _numbers(x), "y": _numbers(y), **more}


def _line(panel: Panel, layer: Line) -> dict[str, Any]:
    line = {"color": _colour(layer.colour), "width": 1.2 * layer.width, "dash": layer.dash}
    made = _scatter("lines", layer.x, layer.y, opacity=layer.opacity, line=line, name=html.escape(layer.name))
    if not layer.hover:
        return made | {"hoverinfo": "skip"}
    title, kinds = html.escape(layer.hover), (panel.x.kind, panel.y.kind)
    pairs = zip(layer.x.tolist(), layer.y.tolist(), strict=True)
    texts = [f"{_read(y, kinds[1])} at {_read(x, kinds[0])}" for x, y in pairs]
    return made | {"text": texts, "hovertemplate": f"<b>{title}</b><br>%{{text}}<extra></extra>"}


def _read(value: float, kind: Any) -> str:
    return f"{value:.4g}" if kind == "number" or not value > 0 else label(float(f"{value:.3g}"), kind)


def _marks(layer: Marks) -> dict[str, Any]:
    n = len(layer.x)
    colours = [_colour(place) for place in np.broadcast_to(np.asarray(layer.colour), n).tolist()]
    diameter = 1.35 * np.sqrt(np.broadcast_to(layer.area, n))
    marker: dict[str, Any] = {
        "symbol": layer.shape + "-open" * layer.hollow,
        "size": [round(float(size), 1) for size in diameter],
        "color": colours,
        "opacity": layer.opacity,
        "line": {"color": colours, "width": 2} if layer.hollow else {"color": "@paper", "width": 0.8},
    }
    made = _scatter("markers", layer.x, layer.y, name=html.escape(layer.name), marker=marker)
    if layer.error is not None:
        below, above = np.broadcast_to(np.atleast_2d(np.nan_to_num(layer.error, posinf=0.0)), (2, n))
        bars = {"array": _numbers(above), "arrayminus": _numbers(below), "symmetric": False}
        made["error_y"] = {"type": "data", "color": "@muted", "thickness": 1, "width": 0, **bars}
    if layer.hover:
        made["text"] = [_hover(text) for text in layer.hover]
        return made | {"hovertemplate": "%{text}<extra></extra>"}
    return made | {"hoverinfo": "skip"}


def _hover(text: str) -> str:
    first, *rest = html.escape(text).split("\n")
    return "<br>".join([f"<b>{first}</b>", *rest])


def _rule(panel: Panel, rule: Rule) -> dict[str, Any]:
    """A line far beyond the window, for readers who move it; a shape would lie below the grid, or above the points."""
    axis, (low, high) = (panel.y, panel.window("y")) if rule.vertical else (panel.x, panel.window("x"))
    far = [low / 1e6, high * 1e6] if axis.log else [low - 100 * (high - low), high + 100 * (high - low)]
    at = [rule.at, rule.at]
    x, y = (at, far) if rule.vertical else (far, at)
    line = {"color": _rule_colour(rule), "width": 1.1, "dash": rule.dash}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip"}


def _rule_colour(rule: Rule) -> str:
    return "@muted" if rule.vertical else "@ink"


def _rule_label(panel: Panel, rule: Rule, own: str) -> dict[str, Any]:
    along, across = ("x", "y") if rule.vertical else ("y", "x")
    refs = {f"{along}ref": f"{along}{own}", f"{across}ref": f"{across}{own} domain"}
    value = float(np.log10(rule.at)) if (panel.x if rule.vertical else panel.y).log else rule.at
    place: dict[str, Any] = {along: value, **refs, "text": html.escape(rule.label), "showarrow": False}
    if rule.vertical:
        place |= {"y": 0.01 if rule.below else 0.99, "yanchor": "bottom" if rule.below else "top", "xanchor": "left"}
    else:
        place |= {"x": 0.01, "xanchor": "left", "yanchor": "top" if rule.below else "bottom"}
    return place | {"font": {"size": 11, "color": _rule_colour(rule)}}


def _ends(layout: dict[str, Any], narrow: dict[str, Any], chart: Chart) -> None:
    written = [(line.end, place, _colour(line.colour)) for line, place in chart.ends]
    if not written:
        return
    narrow["margin"]["r"] = 54
    if chart.end_title:
        written.append((chart.end_title, max(place for _, place, _ in written) + 0.075, "@muted"))
    where = {"xref": "paper", "yref": "paper", "x": 1.01, "xanchor": "left", "yanchor": "middle", "showarrow": False}
    for text, place, colour in written:
        own = {"text": html.escape(text), "font": {"size": 12, "color": colour}, "y": round(place, 4)}
        layout["annotations"].append(own | where)


def _scale_bar(chart: Chart) -> dict[str, Any]:
    """A trace with nothing in it that carries the colour bar; `page.js` lays the bar flat on a phone."""
    scale = chart.scale
    assert scale is not None
    bar = {
        "title": {"text": html.escape(scale.label), "side": "right"},
        "tickvals": [round(float(scale.place(value)), 5) for value, _ in scale.marks],
        "ticktext": [html.escape(text) for _, text in scale.marks],
        "thickness": 11,
        "outlinewidth": 0,
        "len": 1,
        "x": 1.01,
    }
    marker = {"color": [0], "cmin": 0, "cmax": 1, "colorscale": "@scale", "showscale": True, "colorbar": bar}
    return {"type": "scatter", "x": [None], "y": [None], "marker": marker, "showlegend": False, "hoverinfo": "skip"}


def _colour(colour: Colour) -> str:
    return f"@{colour}" if isinstance(colour, str) else f"@{round(colour, 4)}"


def _numbers(values: Array) -> list[float | None]:
    return [_short(value) for value in np.asarray(values, float).tolist()]


def _short(value: float) -> float | None:
    """Six digits: pixels show no more, and a page of 245 points is a third smaller."""
    return float(f"{value:.6g}") if np.isfinite(value) else None
