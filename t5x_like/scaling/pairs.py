# SPDX-License-Identifier: Apache-2.0
"""Intervals as JSON knows them: [low, high], null for a bound that is not known."""

from typing import Any

import numpy as np

Pair = list[float | None]


def pair(low: Any, high: Any) -> Pair:
    """Returns [low, high] with None for what is not finite."""
    return [float(bound) if np.isfinite(bound) else None for bound in (low, high)]
