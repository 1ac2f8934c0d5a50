# SPDX-License-Identifier: Apache-2.0
"""Losses compared as they are, and laws that lean below badly tuned runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.fit import fit_scaling_law

PROGRAM = Path(__file__).parents[2] / "scripts/fit.py"

# Gadre et al. 2024: five small models on C4 (params, tokens, loss on c4_val; mlfoundations/scaling).
C4 = np.array(
    [
        (10_569_312, 211_386_240, 5.220676313056785),
        (10_569_312, 3_382_179_840, 4.506403529656214),
        (78_914_048, 1_578_280_960, 3.800284412392762),
        (153_677_376, 3_073_547_520, 3.4326457499105776),
        (411_616_256, 8_232_325_120, 3.0417367343404416),
    ]
)
PUBLISHED = {"E": 1.51, "a": 141.0, "b": 190.0, "eta": 0.121}  # theirs, for C4, in print


def test_raw_residuals_reproduce_the_published_law_of_c4():
    fit = fit_scaling_law(C4, "overtraining", huber_delta=1e6, bootstrap=0, residual="raw")
    for name, value in PUBLISHED.items():
        assert float(f"{fit.parameters[name]:.3g}") == value
    assert fit.to_json()["residual"] == "raw"


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(3)
    params, tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e8, 1e11, 6)))
    loss = (1.7 + 400 / params**0.34 + 410 / tokens**0.28) * np.exp(0.004 * rng.standard_normal(30))
    return np.stack([params, tokens, loss], 1)


def test_raw_least_squares_are_those_of_scipy(noisy):
    params, tokens, loss = noisy.T
    fit = fit_scaling_law(noisy, huber_delta=1e6, bootstrap=0, residual="raw")

    def misses(x):
        return np.exp(x[0]) + np.exp(x[1] - x[3] * np.log(params)) + np.exp(x[2] - x[4] * np.log(tokens)) - loss

    found = least_squares(misses, [np.log(1.7), 6, 6, 0.34, 0.28], xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    expected = [*np.exp(found[:3]), *found[3:]]
    np.testing.assert_allclose(fit.vector, expected, rtol=1e-4)
    assert abs(fit.vector[1] / fit_scaling_law(noisy, huber_delta=1e6, bootstrap=0).vector[1] - 1) > 1e-3


@pytest.mark.parametrize("method", ["wild", "pairs", "delta", "profile"])
def test_intervals_of_raw_fits_hold_the_truth(method, noisy):
    fit = fit_scaling_law(noisy, bootstrap=200, interval_method=method, residual="raw", huber_delta="auto")
    for name, true in {"alpha": 0.34, "beta": 0.28, "E": 1.7}.items():
        low, high = fit.intervals[name]
        assert low < true < high and high - low < 0.5 * true


def test_a_penalty_on_overestimates_finds_the_law_below_badly_tuned_runs(noisy):
    rng = np.random.default_rng(0)
    params, tokens, loss = noisy.T
    spoilt = loss * np.where(rng.random(30) < 0.4, np.exp(rng.exponential(0.05, 30)), 1.0)
    points = np.stack([params, tokens, spoilt], 1)
    options = {"huber_delta": 1e6, "bootstrap": 0}
    even, leaning = fit_scaling_law(points, **options), fit_scaling_law(points, overestimate_penalty=10, **options)
    clean = 1.7 + 400 / params**0.34 + 410 / tokens**0.28

    def miss(fit):
        return np.abs(np.log(fit.predict(params, tokens) / clean)).mean()

    assert miss(leaning) < 0.5 * miss(even)
    found = leaning.analyses["overestimates"]
    assert found["parameters_evenly"] == even.parameters
    assert found["points_above"] > found["points_above_evenly"] == (even.residuals > 0).sum()


def test_the_weights_of_a_penalty_are_those_of_its_own_residuals(noisy):
    fit = fit_scaling_law(noisy, overestimate_penalty=4, bootstrap=0)
    ratio = fit.surface.emphasis.max() ** 2 / fit.surface.emphasis**2
    off = np.abs(fit.residuals) > 1e-9
    np.testing.assert_allclose(ratio[off], np.where(fit.residuals > 0, 4, 1)[off])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "lgo"}, "residual: 'lgo' is not known; accepted: log, raw"),
        ({"overestimate_penalty": 0.5}, "overestimate_penalty: 0.5; it must be 1, for none, or more"),
    ],
)
def test_mistakes_are_told(options, message, noisy):
    with pytest.raises(UserError, match=message):
        fit_scaling_law(noisy, **options)


def test_the_command_says_what_the_penalty_changed(noisy, tmp_path):
    text = "params,tokens,loss\n" + "\n".join(",".join(map(repr, map(float, row))) for row in noisy)
    (tmp_path / "points.csv").write_text(text)
    flags = [f"--points={tmp_path}/points.csv", f"--out={tmp_path}/fit", "--bootstrap=0", "--residual=raw"]
    command = [sys.executable, PROGRAM, *flags, "--overestimate_penalty=10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "The penalty on overestimates leaves" in done.stdout
    assert json.loads((tmp_path / "fit" / "fit.json").read_text())["overestimates"]["points_above"] > 15
