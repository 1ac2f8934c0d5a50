# SPDX-License-Identifier: Apache-2.0
"""Laws ranked by runs left out: errors against fits made one by one, and the right law wins on its own surface."""

import numpy as np
import pytest

from t5x_like import fit_scaling_law
from t5x_like.scaling.analysis.leaderboard import entrants, folds, leaderboard, leave_out
from t5x_like.scaling.fitting.points import read_points
from t5x_like.scaling.fitting.solver import find_minimum
from t5x_like.scaling.fitting.surface import surface_of
from t5x_like.scaling.laws.catalogue import LAWS


def test_leave_one_out_is_what_fits_of_the_other_points_predict(grid):
    points = read_points(grid(noise=0.01))
    fit = fit_scaling_law(points, huber_delta="auto", bootstrap=0)
    errors = leave_out(fit.surface, fit.target, fit.theta, fit.huber_delta)
    for i in (0, 6, 15):
        others = points.take(np.arange(16) != i)
        surface = surface_of(fit.law, others)
        theta, _, _ = find_minimum(surface, np.log(others.loss), fit.huber_delta)
        alone = fit.law.predict(
            fit.law.named(surface.natural(theta[None])[0]), {k: points.variables[k][i] for k in ("params", "tokens")}
        )
        assert errors[i] == pytest.approx(np.log(float(alone) / points.loss[i]), rel=1e-3)


def test_rolling_origins_predict_only_larger_runs(grid):
    points = read_points(grid(sizes=5, noise=0.003))
    row = leaderboard(points, ["chinchilla"])["rows"][0]
    assert [origin["points"] for origin in row["origins"]] == sorted(
        (origin["points"] for origin in row["origins"]), reverse=True
    )
    origin = row["origins"][-1]
    inside = points.compute <= origin["trained_below_flops"] * (1 + 1e-9)
    assert origin["points"] == (~inside).sum()
    fit = fit_scaling_law(points.take(inside), bootstrap=0)
    errors = np.log(fit.law.predict(fit.parameters, points.variables) / points.loss)[~inside]
    assert origin["rms"] == pytest.approx(float(np.sqrt(np.mean(errors**2))), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("chinchilla", {"E": 3.0, "A": 20.0, "B": 800.0, "alpha": 0.34, "beta": 0.5}),
        ("power_of_sum", {"E": 1.5, "A": 2e4, "B": 2e7, "alpha": 0.9, "beta": 1.1, "k": 0.4}),
        ("multiplicative", {"E": 1.5, "A": 90.0, "alpha": 0.2, "beta": 0.15}),
    ],
)
def test_the_law_that_is_true_wins(grid, name, parameters):
    columns = grid(sizes=6)
    exact = LAWS[name].predict(parameters, columns)
    columns["loss"] = exact * np.exp(0.001 * np.random.default_rng(0).normal(size=36))
    found = leaderboard(read_points(columns))
    scores = {row["law"]: row["score"] for row in found["rows"]}
    # a law that contains the true one may tie with it; no law may beat it clearly, and wrong ones lose
    assert scores[name] < 1.25 * min(scores.values())
    wrong = {"chinchilla": "kaplan", "power_of_sum": "multiplicative", "multiplicative": "chinchilla"}[name]
    assert scores[wrong] > 1.5 * scores[name]
    assert found["best"] == found["rows"][0]["law"]


def test_laws_that_the_points_cannot_determine_are_named(grid):
    seven = {name: column[[0, 3, 5, 6, 9, 12, 15]] for name, column in grid(noise=0.003).items()}
    found = leaderboard(read_points(seven), ["power_of_sum", "chinchilla_tied", "data_constrained"])
    assert [row["law"] for row in found["rows"]] == ["chinchilla_tied", "power_of_sum"]
    assert "unique_tokens" in found["refused"]["data_constrained"]


def test_entrants_follow_the_columns(grid):
    columns = grid()
    assert "data_constrained" not in {law.name for law in entrants(read_points(columns))}
    columns["unique_tokens"] = columns["tokens"] / 4
    names = {law.name for law in entrants(read_points(columns))}
    assert {"data_constrained", "chinchilla", "power_of_sum", "kaplan", "kaplan_e", "multiplicative"} <= names
    assert "overtraining" not in names


def test_groups_are_single_points_or_48_of_equal_size():
    np.testing.assert_array_equal(folds(10), np.arange(10))
    sizes = np.bincount(folds(240))
    assert len(sizes) == 48
    assert set(sizes) == {5}


def test_laws_of_accuracy_are_ranked_by_accuracy(grid):
    columns = grid()
    compute = 6 * columns["params"] * columns["tokens"]
    exact = 0.25 + 0.7 / (1 + np.exp((11 - np.log10(compute)) / 0.4))
    columns["accuracy"] = exact + 0.005 * np.random.default_rng(0).normal(size=16)
    row = leaderboard(read_points(columns), ["emergence"])["rows"][0]
    assert 0.002 < row["residual_rms"] < 0.008
    assert row["values"]["midpoint"] == pytest.approx(11, abs=0.1)
