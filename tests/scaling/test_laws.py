# SPDX-License-Identifier: Apache-2.0
"""A law is a declaration: one that this package has never seen goes through every part of it."""

import numpy as np
import pytest

from t5x_like import fit_scaling_law
from t5x_like.errors import UserError
from t5x_like.scaling.laws import LAWS, Law, get_law
from t5x_like.scaling.report import write_report

# E + A (N^-alpha + R D^-beta): one coefficient, three exponents; not in the package.
SUMMED = Law(
    name="summed",
    formula="E + A * (1 / params^alpha + R / tokens^beta)",
    variables=("params", "tokens"),
    linear=("E", "A"),
    nonlinear={"alpha": (0.05, 2.0), "beta": (0.05, 2.0), "R": (0.1, 1000.0)},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"] + x["R"] * v["tokens"] ** -x["beta"]),
)


def test_a_users_law_is_fitted_and_reported(grid, truth, tmp_path):
    fit = fit_scaling_law(grid(), SUMMED, bootstrap=100)
    expected = {**truth, "R": truth["B"] / truth["A"]}
    for name, value in fit.parameters.items():
        assert value == pytest.approx(expected[name], rel=1e-4)
    assert fit.compute_optimal is None
    assert any("No compute-optimal sizes" in warning for warning in fit.warnings)
    write_report(fit, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "fit.json",
        "report.html",
        "loss_by_tokens.png",
        "residuals.png",
    }


def test_tied_exponents_recover_a_tied_surface(grid):
    fit = fit_scaling_law(grid(alpha=0.4, beta=0.4), "chinchilla_tied", bootstrap=0)
    assert fit.parameters["alpha"] == pytest.approx(0.4, rel=1e-5)
    assert fit.compute_optimal is not None
    assert fit.compute_optimal["a"] == pytest.approx(0.5)


def test_predictions_are_the_formula(truth):
    for name, law in LAWS.items():
        parameters = {k: truth[k] for k in law.parameters}
        n, d = np.array([1e4, 1e5]), np.array([1e6, 3e6])
        beta = parameters.get("beta", parameters["alpha"])
        by_hand = truth["E"] + truth["A"] / n ** truth["alpha"] + truth["B"] / d**beta
        np.testing.assert_allclose(law.predict(parameters, {"params": n, "tokens": d}), by_hand, err_msg=name)


def test_unknown_law_names_the_nearest():
    with pytest.raises(UserError, match=r"'chinchila' is not known.*did you mean 'chinchilla'"):
        get_law("chinchila")
