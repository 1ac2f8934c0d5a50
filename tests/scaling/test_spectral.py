# SPDX-License-Identifier: Apache-2.0
"""The closed forms against brute-force sums, simulated regressions, and the exponents that they should tend to."""

import numpy as np
import pytest
from scipy import special
from truth import spectral
from truth.spectral import HEAD, MODES, QuantaModel, RandomFeatureModel, sweep

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import read_points


def slope(function, at):
    """-d log f / d log x, by a central difference."""
    low, high = np.log(function(np.array([at / 1.05, at * 1.05])))
    return (low - high) / np.log(1.05**2)


@pytest.mark.parametrize("params", [1, 7, HEAD - 1, HEAD, HEAD + 1, 30_000, 1_000_000])
@pytest.mark.parametrize("a", [0.3, 0.5, 1.2])
def test_quanta_loss_is_the_sum_over_tasks(params, a):
    k = np.arange(1.0, params + 1)
    p = k ** -(1 + a) / special.zeta(1 + a)
    model = QuantaModel(entropy=1.7, a=a, scale=2.0)
    for tokens in (1, 50, 1e4, 1e7, 1e10):
        missing = (1 - p.sum()) + (p * (1 - p) ** tokens).sum()
        assert model.loss(params, tokens) - 1.7 == pytest.approx(2 * missing, rel=1e-9)


@pytest.mark.parametrize("tokens", [1.0, 30.0, 1e3])
def test_the_integral_behind_the_head_is_corrected_at_both_ends(tokens, monkeypatch):
    monkeypatch.setattr(spectral, "HEAD", 40)
    k = np.arange(1.0, 501)
    p = k**-1.5 / special.zeta(1.5)
    missing = (1 - p.sum()) + (p * (1 - p) ** tokens).sum()
    assert QuantaModel(0.0, 0.5).loss(500, tokens) == pytest.approx(missing, rel=3e-8)


def test_quanta_loss_is_the_expected_loss_of_learners_that_saw_random_samples():
    model, rng = QuantaModel(entropy=0.0, a=0.5), np.random.default_rng(0)
    params, tokens, learners = 40, 200, 4000
    p = np.arange(1.0, params + 1) ** -1.5 / special.zeta(1.5)
    seen = rng.multinomial(tokens, np.append(p, 1 - p.sum()), size=learners)[:, :params] > 0
    losses = 1 - seen @ p
    assert model.loss(params, tokens) == pytest.approx(losses.mean(), abs=4 * losses.std() / np.sqrt(learners))


@pytest.mark.parametrize("a", [0.3, 0.5, 1.0])
def test_quanta_limits_are_power_laws_with_known_coefficients(a):
    model = QuantaModel(entropy=1.0, a=a)
    x = 1e9
    by_size = float(model.loss(x, 1e30)) - 1
    by_data = float(model.loss(1e30, x)) - 1
    assert by_size == pytest.approx(model.coefficients["A"] * x ** -model.exponents["alpha"], rel=1e-6)
    assert by_data == pytest.approx(model.coefficients["B"] * x ** -model.exponents["beta"], rel=1e-4)


def regressions(params, tokens, modes, a, r, noise, ridge, draws, rng):
    """Test errors of ridge regression on random features, each from its own projection and data."""
    k = np.arange(1.0, modes + 1)
    variance = k ** -(1 + a)
    weights = np.sqrt(k ** -(1 + r) / variance)
    errors = []
    for _ in range(draws):
        features = rng.normal(size=(modes, params)) / np.sqrt(params)
        x = rng.normal(size=(tokens, modes)) * np.sqrt(variance)
        y = x @ weights + np.sqrt(noise) * rng.normal(size=tokens)
        seen = x @ features
        fitted = np.linalg.solve(seen.T @ seen / tokens + ridge * np.eye(params), seen.T @ y / tokens)
        errors.append(noise + (variance * (features @ fitted - weights) ** 2).sum())
    return np.mean(errors), np.std(errors) / np.sqrt(draws)


@pytest.mark.parametrize(
    ("params", "tokens", "a", "r", "noise", "ridge"),
    [
        (150, 300, 0.5, 0.5, 0.1, 1e-2),
        (300, 150, 0.5, 0.5, 0.1, 1e-2),
        (200, 200, 1.0, 0.5, 0.05, 1e-3),
        (80, 400, 0.5, 2.5, 0.0, 1e-4),
        (400, 80, 0.5, 1.2, 0.0, 1e-4),
    ],
)
def test_random_features_predict_simulated_regressions(params, tokens, a, r, noise, ridge):
    """Within sampling error, and 2 % for the finite size, which falls like 1/N."""
    mean, error = regressions(params, tokens, 600, a, r, noise, ridge, 16, np.random.default_rng(0))
    predicted = float(RandomFeatureModel(noise, a, r, ridge=ridge, modes=600).loss(params, tokens))
    assert error < 0.05 * mean
    assert predicted == pytest.approx(mean, abs=3 * error + 0.02 * mean)


def test_the_best_ridge_is_the_best_ridge():
    best = RandomFeatureModel(0.1, 0.5)
    for params, tokens in ((100, 1000), (1000, 100), (500, 500)):
        tried = [
            float(RandomFeatureModel(0.1, 0.5, ridge=ridge).loss(params, tokens)) for ridge in np.geomspace(1e-6, 1, 61)
        ]
        assert best.loss(params, tokens) <= min(tried)
        assert best.loss(params, tokens) == pytest.approx(min(tried), rel=1e-3)


def test_without_the_best_ridge_there_is_a_peak_where_samples_are_as_many_as_features():
    weak = RandomFeatureModel(0.1, 0.5, ridge=1e-8)
    few, equal, many = weak.loss(200, [100, 200, 400])
    assert equal > 3 * max(few, many)


@pytest.mark.parametrize(("a", "r", "noise"), [(0.5, 0.5, 0.0), (0.4, 2.2, 0.0), (0.4, 5.0, 0.0), (1.0, 1.5, 0.2)])
def test_random_feature_exponents(a, r, noise):
    model = RandomFeatureModel(noise, a, r)
    alpha = slope(lambda x: model.loss(x, 1e18) - noise, 3e4)
    beta = slope(lambda x: model.loss(1e18, x) - noise, 1e8 if noise else 3e4)
    assert alpha == pytest.approx(model.exponents["alpha"], rel=0.01)
    assert beta == pytest.approx(model.exponents["beta"], rel=0.01)


def test_infinite_spectrum_is_the_exact_sum():
    variance, target, many = RandomFeatureModel(0.0, 0.5, 1.3).spectrum
    assert many @ variance == pytest.approx(special.zeta(1.5), rel=1e-9)
    assert many @ target == pytest.approx(special.zeta(2.3), rel=1e-9)
    variance, _, many = RandomFeatureModel(0.0, 0.5, modes=20_000).spectrum
    assert len(variance) > MODES
    assert many @ (variance / (variance + 1e-5)) == pytest.approx(
        (1 / (1 + 1e-5 * np.arange(1.0, 20_001) ** 1.5)).sum(), rel=1e-8
    )


def test_a_sweep_reads_as_points_with_the_noise_asked_for():
    model = QuantaModel(1.0, 0.5)
    columns = sweep(model, np.geomspace(1e3, 1e5, 5), np.geomspace(1e4, 1e8, 5), noise=0.01, seeds=8)
    points = read_points(columns)
    assert len(points) == 200
    scatter = np.log(points.loss / model.loss(points.params, points.tokens))
    assert scatter.std() == pytest.approx(0.01, rel=0.15)
    assert set(points.columns["seed"]) == set(range(8))
    exact = sweep(model, [1e3], [1e4])
    assert exact["loss"] == model.loss(1e3, 1e4)


def test_impossible_surfaces_are_refused():
    with pytest.raises(UserError, match=r"a: 0; .*positive"):
        QuantaModel(1.0, 0)
    with pytest.raises(UserError, match="entropy: -1"):
        RandomFeatureModel(-1, 0.5)
    with pytest.raises(UserError, match="finite number of modes"):
        RandomFeatureModel(0.1, 0.1)
    with pytest.raises(UserError, match="1 or more"):
        QuantaModel(1.0, 0.5).loss(0.5, 10)
