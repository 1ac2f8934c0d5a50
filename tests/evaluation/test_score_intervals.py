# SPDX-License-Identifier: Apache-2.0
"""Intervals and calibration: closed forms, scipy, scikit-learn, and brute force."""

import math

import numpy as np
import pytest
from scipy import stats

from t5x_like.evaluation.intervals import calibration_error, ratio, share


@pytest.mark.parametrize(("right", "count"), [(0, 7), (3, 7), (7, 7), (450, 1000)])
def test_wilson(right, count):
    """Where the normal test of p = low, or high, is just significant: the roots of (p^ - p)^2 = z^2 p (1 - p) / n."""
    found, z = share([1] * right + [0] * (count - right)), stats.norm.ppf(0.975)
    mean = right / count
    a, b, c = 1 + z**2 / count, -(2 * mean + z**2 / count), mean**2
    roots = sorted(np.roots([a, b, c]).real)
    assert found["value"] == mean
    np.testing.assert_allclose([found["low"], found["high"]], roots, atol=1e-12)


def test_bootstrap_of_a_ratio():
    """Against scipy's, of other random numbers: the ends of 95 % of 1,000 resamples are known to a few per cent."""
    rng = np.random.default_rng(1)
    weights = rng.integers(1, 9, size=200)
    sums = 0.3 * weights + rng.normal(size=200)
    found = ratio(sums, weights)
    assert found["value"] == pytest.approx(sums.sum() / weights.sum())

    def statistic(sums, weights, axis):
        return sums.sum(axis) / weights.sum(axis)

    theirs = stats.bootstrap(
        (sums, weights), statistic, paired=True, vectorized=True, method="percentile", n_resamples=4000, rng=2
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(found["low"] - theirs.low) < 0.1 * width and abs(found["high"] - theirs.high) < 0.1 * width
    assert ratio(sums, weights) == found


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(3), []
    for _ in range(100):
        found = ratio(rng.exponential(size=100))
        held.append(found["low"] <= 1 <= found["high"])
    assert 0.86 <= np.mean(held) <= 1.0


def test_what_is_reported_may_be_a_function_of_the_ratio():
    losses, tokens = [4.0, 6.0, 9.0], [2, 2, 4]
    plain, changed = ratio(losses, tokens), ratio(losses, tokens, lambda mean: np.exp(-mean))
    assert changed["value"] == pytest.approx(math.exp(-19 / 8))
    assert changed["low"] == pytest.approx(math.exp(-plain["high"])) and changed["low"] < changed["high"]


def test_calibration_error_by_brute_force():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.uniform(0.2, 1.0, size=300), [1.0, 0.2, 0.4]])
    right = rng.uniform(size=303) < confidence**2
    expected = 0.0
    for first in range(5):
        inside = (confidence > first / 5) & (confidence <= (first + 1) / 5)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected > 0.05
    assert calibration_error(confidence, right, bins=5) == pytest.approx(expected, abs=1e-12)
    assert calibration_error([0.75] * 4, [1, 1, 1, 0]) == pytest.approx(0)
