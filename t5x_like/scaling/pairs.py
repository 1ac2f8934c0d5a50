# SPDX-License-Identifier: Apache-2.0
"""Intervals: as JSON knows them, [low, high] with null for a bound that is not known, and what makes them."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Array = np.ndarray
Function = Callable[[Array], Array]
Pair = list[float | None]


class Intervals(Protocol):
    """A method of making intervals for one fit."""

    def of(self, function: Function) -> tuple[Array, Array]:
        """Returns the 95 % interval, (low [m], high [m]), of a function of printed parameters [..., P] -> [..., m]."""
        ...


def pair(low: Any, high: Any) -> Pair:
    """Returns [low, high] with None for what is not finite."""
    return [float(bound) if np.isfinite(bound) else None for bound in (low, high)]
