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
    counted = binomtest(int(np.sum(right)), len(right))
    low, high = counted.proportion_ci(0.95, "wilson")
    return {"value": counted.statistic, "low": float(low), "high": float(high)}


def ratio(
    sums: Sequence[float], weights: Sequence[float] | None = None, change: Callable[[Any], Any] = lambda value: value
) -> Score:
    """sum(sums) / sum(weights) over examples, with the bootstrap's percentile interval (Efron 1979).

    Args:
      sums, weights: one of each for every example; no weights: 1 each, a mean.
      change: what is reported of the ratio, such as `np.exp` of a mean loss; monotone.
    """
    count = len(sums)
    parts = np.array([sums, np.ones(count) if weights is None else weights], float)
    rng = np.random.default_rng(0)
    drawn = np.stack([parts[:, rng.integers(count, size=count)].sum(1) for _ in range(RESAMPLES)], axis=1)
    low, high = sorted(change(np.quantile(drawn[0] / drawn[1], (0.025, 0.975))).tolist())
    return {"value": float(change(parts[0].sum() / parts[1].sum())), "low": low, "high": high}


def calibration_error(confidence: Sequence[float], right: Sequence[Any], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): |accuracy - mean confidence| within bins of equal width of the
    confidence in what was chosen, weighted by how many examples a bin has."""
    sure, true = np.asarray(confidence, float), np.asarray(right, float)
    which = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)  # bins are open below
    return float(np.abs(np.bincount(which, true - sure, minlength=bins)).sum() / len(sure))


def brier(probabilities: Sequence[float], answer: int) -> float:
    """Of one example: the squared distance of the probabilities from those of who knows (Brier 1950), 0 to 2."""
    apart = np.array(probabilities, float)
    apart[answer] -= 1
    return float(np.square(apart).sum())
