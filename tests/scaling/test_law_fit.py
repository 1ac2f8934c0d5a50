# SPDX-License-Identifier: Apache-2.0
"""`fit_scaling_law` as people call it: numbers, evidence, warnings, refusals."""

import json

import numpy as np
import pytest

import t5x_like
from t5x_like import fit_scaling_law
from t5x_like.errors import UserError
from t5x_like.scaling.fitting.fit import ExtrapolationWarning
from t5x_like.scaling.fitting.points import read_points
from t5x_like.scaling.uncertainty.holdout import held_out

CHINCHILLA_MINIMUM = {"A": 477.826, "B": 2143.42, "E": 1.817218, "alpha": 0.347311, "beta": 0.367172}


def warned(fit, *words):
    return any(all(word in warning for word in words) for warning in fit.warnings)


def test_the_240_public_points_give_the_true_minimum_and_besiroglus_intervals(chinchilla):
    fit = fit_scaling_law(chinchilla, "chinchilla", huber_delta=1e-3, bootstrap=400)
    for name, value in CHINCHILLA_MINIMUM.items():
        assert fit.parameters[name] == pytest.approx(value, rel=2e-6)
    assert fit.objective == pytest.approx(0.00101827402, rel=1e-8)
    assert fit.certificate["second_method"]["agrees"]
    assert fit.certificate["gradient_norm"] < 1e-8
    assert fit.certificate["starts_at_minimum"] == fit.certificate["starts"] == 5
    # 4,000 pairs bootstraps by another program: alpha [.317, .372], beta [.333, .415], E [1.772, 1.869], a [.482, .557]
    for name, low, high in (("alpha", 0.317, 0.372), ("beta", 0.333, 0.415), ("E", 1.772, 1.869)):
        ours = fit.intervals[name]
        assert ours == pytest.approx([low, high], abs=0.5 * (high - low))
        assert 0.6 < (ours[1] - ours[0]) / (high - low) < 1.5
    assert fit.compute_optimal["a"] == pytest.approx(0.5139, abs=2e-4)
    assert fit.compute_optimal["intervals"]["a"] == pytest.approx([0.482, 0.557], abs=0.02)


def test_five_outliers_move_beta_and_are_told():
    from public_points import PUBLIC

    if not PUBLIC.is_file():
        pytest.skip("the public points are not on this machine")
    fit = fit_scaling_law(PUBLIC, bootstrap=0)
    assert fit.parameters["beta"] == pytest.approx(0.453, abs=5e-4)
    assert warned(fit, "robust standard deviations")


def test_noisy_surface_recovers_its_parameters_within_their_intervals(grid, truth):
    fit = fit_scaling_law(grid(sizes=5, noise=0.003, seed=1), bootstrap=400)
    for name, (low, high) in fit.intervals.items():
        assert low < truth[name] < high
    assert fit.residual_rms == pytest.approx(0.003, rel=0.4)
    assert fit.covariance.shape == (5, 5)
    deviations = np.sqrt(np.diag(fit.covariance))
    assert deviations[3] == pytest.approx(np.diff(fit.intervals["alpha"])[0] / 3.92, rel=0.25)
    low, high = fit.predict_interval(np.array([1e6, 5e6]), 1e7)
    assert ((low < fit.predict([1e6, 5e6], 1e7)) & (fit.predict([1e6, 5e6], 1e7) < high)).all()
    with pytest.warns(ExtrapolationWarning, match="50 times the largest compute"):
        fit.predict(1e7, 1e7)
    assert not warned(fit, "bound")


def test_the_same_seed_gives_the_same_intervals_and_another_does_not(grid):
    one, two, other = (fit_scaling_law(grid(noise=0.01), bootstrap=100, seed=seed) for seed in (0, 0, 1))
    assert one.to_json() == two.to_json()
    assert one.intervals != other.intervals
    assert one.parameters == other.parameters


def test_fit_json_has_the_fixed_keys_and_is_strict(grid):
    content = fit_scaling_law(grid(noise=0.01), bootstrap=100).to_json()
    fixed = "law parameters covariance intervals objective certificate compute_optimal warnings"
    assert set(fixed.split()) <= set(content)
    assert set(content["parameters"]) == set(content["intervals"]) == {"E", "A", "B", "alpha", "beta"}
    rows = content["compute_optimal"]["rows"]
    assert {"flops", "params", "tokens", "loss"} <= set(rows[0])
    assert rows[0]["intervals"]["params"][0] < rows[0]["params"] < rows[0]["intervals"]["params"][1]
    assert {"a", "b"} == set(content["compute_optimal"]["intervals"])
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["provenance"]["versions"]["t5x_like"] == t5x_like.__version__


def test_without_replicates_there_are_no_intervals(grid):
    content = fit_scaling_law(grid(noise=0.01), bootstrap=0).to_json()
    assert content["intervals"] == {}
    assert content["covariance"] is None
    assert "intervals" not in content["compute_optimal"]["rows"][0]


def test_holdout_predicts_the_largest_from_the_others(grid):
    columns = grid(sizes=4, noise=0.0)
    points = read_points(columns)
    out = held_out(points)
    assert points.compute[out].min() > points.compute[~out].max()
    assert 2 <= out.sum() <= 4
    bent = dict(columns, loss=np.where(out, columns["loss"] * 1.02, columns["loss"]))
    fit = fit_scaling_law(bent, bootstrap=0)
    assert fit.holdout["rms_relative_error"] == pytest.approx(1 - 1 / 1.02, rel=1e-3)
    assert fit.holdout["mean_relative_error"] == pytest.approx(1 / 1.02 - 1, rel=1e-3)
    assert fit.holdout["worst_relative_error"] < 0
    assert warned(fit, "largest runs from the others misses by 1.96 %")


def test_entropy_at_its_bound_is_told(grid):
    fit = fit_scaling_law(grid(sizes=5, noise=0.002, E=-0.6, A=30.0, B=500.0), bootstrap=100)
    assert fit.parameters["E"] == 0
    assert fit.intervals["E"][0] == 0
    assert fit.certificate["active_bounds"] == ["E = 0"]
    assert fit.certificate["second_method"]["agrees"]
    assert warned(fit, "E is at its bound")


def test_designs_that_cannot_determine_the_law_are_refused(grid, truth):
    sizes = np.geomspace(5e3, 5e5, 9)

    def surface(params, tokens):
        loss = truth["E"] + truth["A"] * params ** -truth["alpha"] + truth["B"] * tokens ** -truth["beta"]
        return {"params": params, "tokens": tokens, "loss": loss}

    with pytest.raises(UserError, match=r"one line of log params and log tokens.*add cells"):
        fit_scaling_law(surface(sizes, 20 * sizes))
    with pytest.raises(UserError, match="only one value of params"):
        fit_scaling_law(surface(np.full(9, 1e4), sizes))
    with pytest.raises(UserError, match="only two values of tokens"):
        fit_scaling_law(surface(sizes, np.where(np.arange(9) % 2, 1e6, 2e6)))
    with pytest.raises(UserError, match=r"5 parameters and needs at least 6 points.*has 5"):
        fit_scaling_law({name: column[:5] for name, column in grid().items()})
    near = fit_scaling_law(surface(sizes, 20 * sizes * np.exp(0.05 * np.sin(np.arange(9)))), bootstrap=0)
    assert warned(near, "rise together")
    assert warned(near, "barely determine")


def test_other_warnings(grid):
    columns = grid(noise=0.003)
    columns["loss"][5] *= 1.2
    fit = fit_scaling_law(
        columns | {"unique_tokens": np.full(16, 2e5), "family": ["decoder", "encoder"] * 8}, bootstrap=0
    )
    assert warned(fit, "1 point lies", "the worst is +19.99 %", "630k tokens")
    assert warned(fit, "16 points saw the same data more than once (up to 20 times, beyond 4")
    assert warned(fit, "2 model families together: decoder, encoder")
    few = fit_scaling_law({name: column[[0, 3, 5, 6, 9, 12, 15]] for name, column in grid().items()}, bootstrap=0)
    assert warned(few, "7 points for 5 parameters")
    assert warned(few, "No cells could be held out")
    wild = fit_scaling_law(grid(noise=0.05), bootstrap=100)
    assert warned(wild, "The interval of", "wider than")


def test_mixed_corpora_are_told(sweep):
    content = {"format": 1, "data": {"fingerprint": "another"}}
    (sweep / "run3/environment.json").write_text(json.dumps(content))
    assert warned(fit_scaling_law(sweep, bootstrap=0), "2 different corpora")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"huber_delta": 0}, "huber_delta: 0"),
        ({"huber_delta": float("nan")}, "huber_delta: nan"),
        ({"bootstrap": 5}, "bootstrap: 5"),
        ({"seed": -1}, "seed: -1"),
        ({"law": "kaplann"}, "law: 'kaplann'"),
    ],
)
def test_values_out_of_range_are_refused(grid, options, expected):
    with pytest.raises(UserError, match=expected):
        fit_scaling_law(grid(), **options)


@pytest.mark.parametrize("law", ["chinchilla", "chinchilla_tied", "overtraining", "multiplicative"])
def test_no_law_of_two_variables_is_fitted_to_points_on_a_line(law, truth):
    sizes = np.geomspace(1e4, 1e7, 9)
    loss = truth["E"] + 50 * sizes**-0.34 + 400 * (20 * sizes) ** -0.34
    with pytest.raises(UserError, match="one line of log params and log tokens"):
        fit_scaling_law({"params": sizes, "tokens": 20 * sizes, "loss": loss}, law, bootstrap=0)


def test_losses_that_never_change_are_refused(grid):
    with pytest.raises(UserError, match="all 16 values of loss are the same"):
        fit_scaling_law({**grid(), "loss": np.full(16, 2.5)}, "kaplan_e", bootstrap=100)


def test_tuned_experts_keep_every_number_of_experts():
    cells = [(n, e, rate) for n in (1e5, 1e6, 1e7, 1e8) for e in (1, 4, 16, 64) for rate in (0.1, 0.2, 0.4)]
    params, experts, rates = (np.array(column, float) for column in zip(*cells, strict=True))
    loss = 12 * params**-0.08 * experts**-0.05 * (1 + 0.01 * np.abs(np.log2(rates / 0.2)))
    columns = {"params": params, "tokens": np.full(48, 1e9), "experts": experts, "learning_rate": rates, "loss": loss}
    points = read_points(columns)
    assert len(points) == 16
    assert set(points.columns["learning_rate"]) == {0.2}
    assert fit_scaling_law(points, "experts", bootstrap=0).parameters["a"] == pytest.approx(-0.08, abs=1e-4)


def test_questions_beyond_the_points_are_answered_with_a_warning_or_refused(grid):
    fit = fit_scaling_law(grid(noise=0.003), bootstrap=100)
    with pytest.warns(ExtrapolationWarning):
        row = fit.frontier([1e20])[0]
    assert row["times_largest"] == pytest.approx(1e20 / fit.points.compute.max())
    for wrong in ([0], [-1.0], [float("nan")]):
        with pytest.raises(UserError, match="budgets must be positive"):
            fit.frontier(wrong)
    with pytest.raises(UserError, match="law 'chinchilla' needs params; given: compute"):
        fit.predict_interval(compute=1e12)
    with pytest.raises(UserError, match="params: -1; it must be positive"):
        fit.predict(params=-1, tokens=1e6)
    with pytest.raises(UserError, match="params_column"):
        fit_scaling_law(fit.points, params_column="params_total")


def test_what_was_fitted_is_on_record(grid):
    columns = grid(noise=0.003)
    columns["loss_stderr"] = np.linspace(0.001, 0.01, 16)
    equal, weighed = (fit_scaling_law(columns, bootstrap=0, weights=w).to_json() for w in ("equal", "loss_stderr"))
    assert (equal["provenance"]["weights"], weighed["provenance"]["weights"]) == ("equal", "loss_stderr")
    assert "loss_stderr" in weighed["provenance"]["points_used_columns"]
    assert equal["provenance"]["points_used_sha256"] != weighed["provenance"]["points_used_sha256"]
