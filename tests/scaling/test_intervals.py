# SPDX-License-Identifier: Apache-2.0
"""The 95 % intervals cover the truth about 95 % of the time with 16 points, and are no wider than they need to be."""

import numpy as np
import pytest

from t5x_like.scaling import bootstrap
from t5x_like.scaling.bootstrap import refit, wild_bootstrap
from t5x_like.scaling.catalogue import CHINCHILLA
from t5x_like.scaling.frontier import frontier
from t5x_like.scaling.intervals import interval
from t5x_like.scaling.pairs import pair
from t5x_like.scaling.surface import Surface

DELTA = 1e-3
QUANTITIES = ("E", "A", "B", "alpha", "beta", "a", "log N*", "log D*", "L*", "L(1M, 10M)")


def quantities(surface, theta):
    """Everything that gets an interval, [..., len(QUANTITIES)]; N*, D* and L* at 10 times the largest compute."""
    parameters = surface.natural(theta.reshape(-1, 5))
    best = frontier(CHINCHILLA, parameters, np.array([1.2e14]))
    loss = CHINCHILLA.predict(CHINCHILLA.named(parameters), {"params": 1e6, "tokens": 1e7})
    columns = [best.a, np.log(best.params[:, 0]), np.log(best.tokens[:, 0]), best.loss[:, 0], loss]
    return np.column_stack([parameters, *columns]).reshape(*theta.shape[:-1], len(QUANTITIES))


def simulate(columns, truth, noise, simulations, replicates):
    """Returns the share of data sets whose interval holds the truth, and interval width over the ideal width."""
    columns = dict(columns)
    surface = Surface.over(CHINCHILLA, columns, columns.pop("loss"))
    theta = surface.scaled(np.array([[truth[name] for name in CHINCHILLA.parameters]]))
    rng = np.random.default_rng(7)
    log_loss = surface.predict(theta) + noise * rng.normal(size=(simulations, len(columns["params"])))
    estimates = refit(surface, log_loss, np.repeat(theta, simulations, 0), DELTA)
    draws = wild_bootstrap(surface, log_loss, estimates, DELTA, replicates, rng)
    low, high = interval(quantities(surface, draws))
    exact = quantities(surface, theta)[0]
    covered = ((low <= exact) & (exact <= high)).mean(0)
    ideal = np.subtract(*np.quantile(quantities(surface, estimates), [0.975, 0.025], axis=0))
    return covered, np.median(high - low, axis=0) / ideal


@pytest.mark.parametrize("noise", [0.003, 0.01])
def test_intervals_cover_with_sixteen_points(grid, truth, noise):
    covered, width = simulate(grid(), truth, noise, simulations=150, replicates=150)
    report = dict(zip(QUANTITIES, zip(covered, width, strict=True), strict=True))
    assert covered.min() > 0.90, report
    assert covered.mean() > 0.92, report
    assert width.min() > 0.7, report
    assert width.max() < 1.8, report


def test_that_simulation_rejects_raw_residuals_of_the_huber_fit(grid, truth, monkeypatch):
    """The textbook wild bootstrap fails the test above by far: the test can tell."""
    monkeypatch.setattr(
        bootstrap, "rescaled_residuals", lambda surface, target, estimate: target - surface.predict(estimate)
    )
    covered, _ = simulate(grid(), truth, 0.01, simulations=80, replicates=80)
    assert covered.mean() < 0.85


def test_interval_of_known_samples():
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))
    low, high = interval(samples)
    assert (low, high) == (25, 975)


def test_a_bound_that_the_replicates_do_not_give_is_null():
    samples = np.concatenate([np.arange(90.0), np.full(10, np.nan)])
    assert pair(*interval(samples)) == [None, None]
    assert pair(*interval(np.concatenate([np.arange(90.0), np.full(10, np.inf)]))) == [2.0, None]
