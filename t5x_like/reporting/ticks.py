# SPDX-License-Identifier: Apache-2.0
"""Round numbers along an axis, also on logarithmic axes of less than a decade, where libraries label little."""

import math
from typing import Literal

from t5x_like.reporting.wording import count, power_of_ten

Kind = Literal["number", "count", "power"]  # 0.25; 2.1M; 10²²
Tick = tuple[float, str]

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
