# SPDX-License-Identifier: Apache-2.0
"""Scores with 95 % intervals, and calibration."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 1000
Score = dict[str, float]  # "value", and the ends of its interval, "low" and "high"


def share(right: Sequence[Any]) -> Score:
    """The share of what is true, with Wilson's interval (Wilson 1927): sound for few examples, and at 0 and 1."""
    low, high = binomtest(int(np.sum(right)), len(right)).proportion_ci(0.95, "wilson")
    return {"value": float(np.mean(right)), "low": float(low), "high": float(high)}


def ratio(sums: Any, weights: Any = None, change: Callable[[Any], Any] = lambda value: value) -> Score:
    """sum(sums) / sum(weights) over examples, one of each for every example (no weights: a mean), with the bootstrap's
    percentile interval (Efron 1979). `change`, monotone, makes of the ratio what is reported."""
    parts = np.array([sums, np.ones(len(sums)) if weights is None else weights], float)
    rng, count = np.random.default_rng(0), len(sums)
    drawn = np.stack([parts[:, rng.integers(count, size=count)].sum(1) for _ in range(RESAMPLES)], axis=1)
    low, high = sorted(change(np.quantile(drawn[0] / drawn[1], (0.025, 0.975))).tolist())
    return {"value": float(change(parts[0].sum() / parts[1].sum())), "low": low, "high": high}


def calibration_error(confidence: Sequence[float], right: Sequence[Any], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): |accuracy - mean confidence| in bins of equal width of confidence,
    open below, weighted by the share of the examples that a bin has."""
    which = np.maximum(np.ceil(np.array(confidence) * bins).astype(int), 1)
    return float(np.abs(np.bincount(which, np.array(right, float) - confidence)).sum() / len(which))
