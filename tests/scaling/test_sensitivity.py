# SPDX-License-Identifier: Apache-2.0
"""What a fit hangs on: other thresholds, other windows, single points; each against the fit made anew."""

import numpy as np
import pytest

from t5x_like import fit_scaling_law
from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import read_points
from t5x_like.scaling.fitting.weights import EFFICIENT, own_delta, robust_scale
from t5x_like.scaling.uncertainty.sensitivity import by_threshold, by_window, influence


@pytest.fixture
def fit(grid):
    return fit_scaling_law(grid(sizes=5, noise=0.005, seed=2), bootstrap=0)


def test_thresholds_are_fits_with_them(fit):
    rows = by_threshold(fit)
    assert [row["used"] for row in rows].count(True) == 1
    used = next(row for row in rows if row["used"])
    assert used["huber_delta"] == 1e-3
    assert used["parameters"] == fit.parameters
    squares = rows[-1]
    assert squares["setting"] == "least squares"
    assert squares["huber_delta"] is None
    assert squares["residual_rms"] == min(row["residual_rms"] for row in rows)
    assert squares["parameters"] == pytest.approx(
        fit_scaling_law(fit.points, huber_delta=1e6, bootstrap=0).parameters, rel=1e-6
    )


def test_windows_are_fits_of_fewer_points(fit):
    rows = by_window(fit)
    assert rows[0]["parameters"] == pytest.approx(fit.parameters, rel=1e-6)
    without = rows[2]
    compute = fit.points.compute
    inside = compute >= np.sort(compute)[round(0.1 * 25)] * (1 - 1e-9)
    assert without["points"] == inside.sum() < 25
    again = fit_scaling_law(fit.points.take(inside), bootstrap=0)
    assert without["parameters"] == pytest.approx(again.parameters, rel=1e-3)
    few = by_window(fit_scaling_law({k: v[[0, 3, 5, 6, 9, 12, 15]] for k, v in grid_of_four().items()}, bootstrap=0))
    assert few[-1]["parameters"] is None
    assert "needs at least 6 points" in few[-1]["reason"]


def grid_of_four():
    params, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(5e3, 5e5, 4), np.geomspace(2.5e5, 4e6, 4)))
    return {"params": params, "tokens": tokens, "loss": 3 + 20 / params**0.34 + 800 / tokens**0.4}


def test_influence_is_the_shift_without_the_point(grid):
    columns = grid(sizes=4, noise=0.002, seed=4)
    columns["loss"][0] *= 1.03  # a corner, so the surface follows it
    fit = fit_scaling_law(columns, huber_delta=1e6, bootstrap=0)
    found = influence(fit)
    order = sorted(range(16), key=lambda i: -abs(found["rows"][i]["largest"]))
    assert order[0] == 0
    without = fit_scaling_law({k: v[1:] for k, v in columns.items()}, huber_delta=1e6, bootstrap=0)
    shift = {k: without.parameters[k] - fit.parameters[k] for k in fit.parameters}
    ours = found["rows"][0]["shifts"]
    ratio = [shift[k] / ours[k] for k in ("E", "alpha", "beta")]  # each is that quantity's standard error
    assert min(ratio) > 0
    everyone = [
        fit_scaling_law({k: np.delete(v, i) for k, v in columns.items()}, huber_delta=1e6, bootstrap=0).parameters
        for i in range(16)
    ]
    alphas = np.array([parameters["alpha"] for parameters in everyone])
    jackknife = np.sqrt(15 / 16 * ((alphas - alphas.mean()) ** 2).sum())
    assert ratio[1] == pytest.approx(jackknife, rel=1e-3)


def test_own_threshold_is_1345_robust_deviations_of_its_own_residuals(grid):
    fit = fit_scaling_law(grid(sizes=5, noise=0.01, seed=5), huber_delta="auto", bootstrap=0)
    assert fit.huber_delta == pytest.approx(EFFICIENT * robust_scale(fit.residuals, 5), rel=2e-3)
    assert fit.huber_delta == pytest.approx(own_delta(fit.surface, fit.target))
    assert 0.005 < fit.huber_delta < 0.03


def test_points_with_large_errors_count_less(grid, truth):
    """Half of the points are known ten times better: weights by their errors bring the estimate closer."""
    misses = {"equal": [], "loss_stderr": []}
    for seed in range(12):
        columns = grid(sizes=5, noise=0.0)
        rng = np.random.default_rng(seed)
        relative = np.where(np.arange(25) % 2, 0.001, 0.02)
        columns["loss"] = columns["loss"] * np.exp(relative * rng.normal(size=25))
        columns["loss_stderr"] = relative * columns["loss"]
        for weights, found in misses.items():
            fit = fit_scaling_law(columns, huber_delta=1e6, bootstrap=0, weights=weights)
            found.append(fit.parameters["beta"] - truth["beta"])
    spread = {name: float(np.sqrt(np.mean(np.square(values)))) for name, values in misses.items()}
    assert spread["loss_stderr"] < 0.6 * spread["equal"]
    assert fit.residuals.std() > 0.005  # residuals are told as they are, unweighted


def test_weights_need_errors(grid):
    with pytest.raises(UserError, match="needs a positive loss_stderr in every row"):
        fit_scaling_law(grid(), weights="loss_stderr")
    with pytest.raises(UserError, match=r"'los_stderr' is not known.*did you mean 'loss_stderr'"):
        fit_scaling_law(grid(), weights="los_stderr")
    with pytest.raises(UserError, match="interval_method: 'profil' is not known"):
        fit_scaling_law(grid(), interval_method="profil")
    assert len(read_points(grid())) == 16
