# SPDX-License-Identifier: Apache-2.0
"""The solver against SciPy, finite differences, and the published minimum."""

import numpy as np
import pytest
from scipy import optimize, special

from t5x_like.scaling.fitting.solver import (
    anneal,
    exponent_grid,
    find_minimum,
    huber,
    minimise,
    nonnegative_least_squares,
    profile,
)
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws.catalogue import CHINCHILLA

LEAST_SQUARES = 1e6


@pytest.fixture
def noisy(grid):
    columns = grid(noise=0.01, seed=3)
    loss = columns.pop("loss")
    return Surface.over(CHINCHILLA, columns, loss), np.log(loss)


def test_huber_is_scipys():
    residuals = np.linspace(-3, 3, 101)
    np.testing.assert_allclose(huber(residuals, 0.7), special.huber(0.7, residuals))


def test_nonnegative_least_squares_is_scipys():
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(200, 12, 3)), rng.normal(size=(200, 12))
    ours = nonnegative_least_squares(np.einsum("rnk,rnj->rkj", design, design), np.einsum("rnk,rn->rk", design, target))
    theirs = np.array([optimize.nnls(x, y)[0] for x, y in zip(design, target, strict=True)])
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
    assert 0.2 < (theirs == 0).mean() < 0.8  # both sides of the constraint were exercised


def test_jacobian_is_the_slope_of_predict(noisy):
    surface, _ = noisy
    theta = np.array([[0.7, 0.2, 0.15, 0.3, 0.5], [0.9, 0.05, 0.3, 1.2, 0.1]])
    predicted, jacobian = surface.jacobian(theta)
    np.testing.assert_allclose(predicted, surface.predict(theta), rtol=1e-14)
    for p in range(5):
        step = np.zeros(5)
        step[p] = 1e-5
        slope = (surface.predict(theta + step) - surface.predict(theta - step)) / 2e-5
        np.testing.assert_allclose(jacobian[:, p], slope, rtol=1e-6, atol=1e-9)


def test_scaled_and_natural_parameters_are_inverses_and_predict_the_same(noisy, truth):
    surface, _ = noisy
    parameters = np.array([[truth[name] for name in CHINCHILLA.parameters]])
    theta = surface.scaled(parameters)
    np.testing.assert_allclose(surface.natural(theta), parameters, rtol=1e-12)
    n, d = surface.variables["params"], surface.variables["tokens"]
    by_hand = truth["E"] + truth["A"] * n ** -truth["alpha"] + truth["B"] * d ** -truth["beta"]
    np.testing.assert_allclose(np.exp(surface.predict(theta)[0]), by_hand, rtol=1e-12)


def test_profile_matches_scipy_at_fixed_exponents(noisy):
    surface, log_loss = noisy
    exponents = np.array([[0.2, 0.3], [0.34, 0.40], [1.5, 0.05]])
    theta, _ = profile(surface, log_loss, exponents, LEAST_SQUARES)
    n, d, loss = surface.variables["params"], surface.variables["tokens"], np.exp(log_loss)
    for (alpha, beta), fitted in zip(exponents, surface.natural(theta), strict=True):
        design = np.stack([np.ones_like(n), n**-alpha, d**-beta], 1) / loss[:, None]
        np.testing.assert_allclose(fitted[:3], optimize.nnls(design, np.ones_like(n))[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("delta", [LEAST_SQUARES, 1e-2, 1e-3])
def test_minimum_is_not_above_scipys_least_squares(noisy, delta):
    surface, log_loss = noisy
    theta, _, values = find_minimum(surface, log_loss, delta)

    def residuals(x):
        return surface.predict(x[None])[0] - log_loss

    start = np.array([0.6, 0.2, 0.2, 0.4, 0.4])
    theirs = optimize.least_squares(
        residuals, start, bounds=(surface.lower, surface.upper), loss="huber", f_scale=delta, xtol=1e-15, ftol=1e-15
    )
    ours = huber(residuals(theta), delta).sum()
    assert ours <= theirs.cost * (1 + 1e-9)
    assert values.min() == pytest.approx(ours, rel=1e-12)
    if delta == LEAST_SQUARES:  # smooth, so SciPy gets there, and both must name the same parameters
        np.testing.assert_allclose(theta, theirs.x, rtol=1e-4)


def test_noiseless_surfaces_give_their_parameters_back(grid):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        drawn = {"E": 2.0, "A": 30.0, "B": 500.0, "alpha": rng.uniform(0.2, 0.8), "beta": rng.uniform(0.2, 0.8)}
        columns = grid(sizes=5, **drawn)
        loss = columns.pop("loss")
        surface = Surface.over(CHINCHILLA, columns, loss)
        theta, _, _ = find_minimum(surface, np.log(loss), 1e-3)
        np.testing.assert_allclose(surface.natural(theta[None])[0], list(drawn.values()), rtol=1e-5)


def test_entropy_that_would_be_negative_ends_at_zero_where_bounded_scipy_ends(grid):
    columns = grid(sizes=5, noise=0.002, E=-0.6, A=30.0, B=500.0)
    loss = columns.pop("loss")
    surface = Surface.over(CHINCHILLA, columns, loss)
    theta, _, values = find_minimum(surface, np.log(loss), LEAST_SQUARES)
    theirs = optimize.least_squares(
        lambda x: surface.predict(np.concatenate([[0.0], x])[None])[0] - np.log(loss),
        [0.5, 0.5, 0.3, 0.3],
        bounds=(surface.lower[1:], surface.upper[1:]),
        xtol=1e-15,
        ftol=1e-15,
    )
    assert theta[0] == 0.0
    assert values.min() == pytest.approx(theirs.cost, rel=1e-8)
    np.testing.assert_allclose(theta[1:], theirs.x, rtol=1e-3)


def test_batches_of_data_sets_are_fitted_as_if_alone(noisy):
    surface, log_loss = noisy
    rng = np.random.default_rng(0)
    targets = log_loss + 0.01 * rng.normal(size=(7, len(log_loss)))
    start = np.tile([0.6, 0.2, 0.2, 0.4, 0.4], (7, 1))
    together, values = minimise(surface, targets, start, 1e-2)
    for i in range(7):
        alone, value = minimise(surface, targets[i], start[i : i + 1], 1e-2)
        assert values[i] == pytest.approx(value[0], rel=1e-12)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-6)


def test_every_start_of_a_grid_reaches_the_chinchilla_minimum(chinchilla):
    """SciPy's L-BFGS reaches it from 8 % of grid starts at its default tolerance, from 34 % at 1e-15."""
    params, tokens, loss = chinchilla.T
    surface = Surface.over(CHINCHILLA, {"params": params, "tokens": tokens}, loss)
    grid = exponent_grid(CHINCHILLA, cells=36)
    begun, _ = profile(surface, np.log(loss), grid, 1e-3)
    _, values = anneal(surface, np.log(loss), begun, 1e-3)
    np.testing.assert_allclose(values, 0.00101827402, rtol=1e-7)
