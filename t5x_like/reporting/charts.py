# SPDX-License-Identifier: Apache-2.0
"""A picture as data: what is drawn, in which colours, with which words. `draw_matplotlib` and `draw_plotly` render it.

A chart knows no plotting library, so that the picture for papers and the one to explore cannot come apart.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t5x_like.reporting.wording import count, power_of_ten

Array = np.ndarray
Colour = str | float  # a role in `palette`, or a place from 0 to 1 on the scale of sizes
Dash = Literal["solid", "dash", "dot"]
Shape = Literal["circle", "square", "diamond"]
Kind = Literal["number", "count", "power"]  # 0.25; 2.1M; 10²²
Tick = tuple[float, str]

_MARGIN = 0.04  # of an axis, beyond the outermost mark
_DECADES = 60  # from 1, beyond which a logarithmic axis does not follow: sizes of a law that hardly bends
_REACH = 0.6  # how far a band may widen the window, as a share of what lines and marks span


@dataclass(frozen=True)
class Axis:
    """An axis: label, log or linear, how numbers read; limits and ticks where they should not follow the data."""

    label: str
    log: bool = False
    kind: Kind = "number"
    limits: tuple[float, float] | None = None
    marks: tuple[Tick, ...] | None = None

    def ticks(self, window: tuple[float, float], most: int = 7) -> list[Tick]:
        """Returns (value, label) of the round numbers within the window."""
        return list(self.marks) if self.marks is not None else ticks(*window, self.log, self.kind, most)


@dataclass(frozen=True)
class Line:
    """A curve. `name` puts it into the legend, `end` is written at its right end, `hover` tells what it is."""

    x: Array
    y: Array
    colour: Colour
    name: str = ""
    end: str = ""
    hover: str = ""
    width: float = 1.4
    dash: Dash = "solid"
    opacity: float = 1.0


@dataclass(frozen=True)
class Band:
    """What lies between low and high; parts that are not finite are left out."""

    x: Array
    low: Array
    high: Array
    colour: Colour


@dataclass(frozen=True)
class Marks:
    """Points: colour is one for all, or places [n] on the scale; area in square points, one or [n].
    `error` are half lengths of vertical bars [n] (or [2, n], below and above); `hover` one text per mark."""

    x: Array
    y: Array
    colour: Colour | Array
    hover: tuple[str, ...] = ()
    name: str = ""
    area: float | Array = 34.0
    shape: Shape = "circle"
    hollow: bool = False
    opacity: float = 1.0
    error: Array | None = None


@dataclass(frozen=True)
class Rule:
    """A straight line over the whole panel at one value, with a label at its start: above it, or below."""

    at: float
    vertical: bool = False
    label: str = ""
    dash: Dash = "dash"
    below: bool = False


Layer = Line | Band | Marks | Rule


@dataclass(frozen=True)
class Scale:
    """A logarithmic colour scale."""

    label: str
    low: float
    high: float
    marks: tuple[Tick, ...]

    def place(self, value: Array | float) -> Array:
        """Returns where values lie on the scale, from 0 to 1."""
        if self.high <= self.low:
            return np.zeros(np.shape(value))
        return np.clip(np.log(np.asarray(value, float) / self.low) / np.log(self.high / self.low), 0.0, 1.0)


@dataclass(frozen=True)
class Panel:
    """Axes and what is drawn between them, in order."""

    x: Axis
    y: Axis
    layers: tuple[Layer, ...]

    def window(self, which: Literal["x", "y"]) -> tuple[float, float]:
        """Returns the limits of an axis: its own, or just beyond all layers (bands may not stretch it far)."""
        axis = self.x if which == "x" else self.y
        if axis.limits is not None:
            return axis.limits
        change, back = (np.log, np.exp) if axis.log else (np.asarray, np.asarray)
        firm = np.concatenate([np.zeros(0), *(_usable(values, axis.log) for values in self._values(which))])
        if not len(firm):
            return (1.0, 10.0) if axis.log else (0.0, 1.0)
        firm = change(firm)
        low, high = float(firm.min()), float(firm.max())
        span = (high - low) or abs(high) * 0.1 or 1.0
        for values in self._values(which, bands=True):
            soft = change(_usable(values, axis.log))
            if len(soft):
                low = min(low, max(float(soft.min()), float(firm.min()) - _REACH * span))
                high = max(high, min(float(soft.max()), float(firm.max()) + _REACH * span))
        margin = _MARGIN * ((high - low) or span)
        word = which == "y" and any(isinstance(layer, Rule) and layer.below and layer.label for layer in self.layers)
        return float(back(low - (2 * margin if word else margin))), float(back(high + margin))

    def _values(self, which: str, bands: bool = False) -> Iterator[Array]:
        for layer in self.layers:
            if isinstance(layer, Band) != bands:
                continue
            if isinstance(layer, Band):
                yield from ([layer.x] if which == "x" else [layer.low, layer.high])
            elif not isinstance(layer, Rule):
                yield layer.x if which == "x" else layer.y
            elif layer.vertical == (which == "x"):
                yield np.array([layer.at])


@dataclass(frozen=True)
class Chart:
    """One picture: panels side by side; papers put their own title and caption, so they are not drawn into it."""

    name: str  # of its files, without an ending
    title: str
    caption: str
    panels: tuple[Panel, ...]  # they share the y axis of the first where there are several
    scale: Scale | None = None  # the colour scale beside it, for layers whose colour is a number
    end_title: str = ""  # what the labels at the right ends of lines are

    @property
    def ends(self) -> list[tuple[Line, float]]:
        """The lines with a label at their end, each with the share of the height to write it at, pushed apart."""
        panel = self.panels[0]
        lines = [layer for layer in panel.layers if isinstance(layer, Line) and layer.end]
        if not lines:
            return []
        low, high = panel.window("y")
        last = np.array([float(line.y[-1]) for line in lines])
        wanted = np.log(last / low) / np.log(high / low) if panel.y.log else (last - low) / (high - low)
        order = np.argsort(wanted)
        places = np.empty(len(lines))
        places[order] = spread_apart(wanted[order], gap=0.048)
        return list(zip(lines, places.tolist(), strict=True))


def _usable(values: Array, log: bool) -> Array:
    values = np.asarray(values, float).ravel()
    if not log:
        return values[np.isfinite(values)]
    return values[(values > 10.0**-_DECADES) & (values < 10.0**_DECADES)]


def spread_apart(places: Array, gap: float) -> Array:
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


# --- Round numbers along an axis, also on logarithmic axes of less than a decade, where libraries label little --------

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_HEADS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.8, (1, 1.5, 2, 3, 4, 5, 7)),
    (1.5, (1, 2, 5)),
    (2.4, (1, 3)),
    (math.inf, (1,)),
)  # below so many decades, first digits that get a tick


def ticks(low: float, high: float, log: bool, kind: Kind = "number", most: int = 7) -> list[Tick]:
    """Returns at most about `most` (value, label) pairs from low to high."""
    values = _logarithmic(low, high, most) if log else _linear(low, high, most)
    return [(value, label(value, kind)) for value in values]


def label(value: float, kind: Kind) -> str:
    """Returns a tick's text."""
    if kind == "count":
        return count(value, trim=True)
    if kind == "power":
        return power_of_ten(value)
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


def _linear(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(step * size for step in _STEPS if step * size >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [0.0 if i == 0 else float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _logarithmic(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, and multiples of them where they are few; equal steps within half a decade."""
    decades = math.log10(high / low)
    if decades < 0.55:
        return _linear(low, high, most)
    heads = next(heads for limit, heads in _HEADS if decades < limit)
    stride = max(1, math.ceil(decades / (most + 1))) if heads == (1,) else 1
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [head * 10.0**power for power in powers if power % stride == 0 for head in heads]
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
