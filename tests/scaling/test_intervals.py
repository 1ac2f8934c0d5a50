# SPDX-License-Identifier: Apache-2.0
"""The 95 % intervals cover the truth about 95 % of the time with 16 points, and are no wider than they need to be."""

import numpy as np
import pytest
from scipy import optimize, stats

from t5x_like import fit_scaling_law
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws.catalogue import CHINCHILLA
from t5x_like.scaling.laws.frontier import frontier
from t5x_like.scaling.pairs import pair
from t5x_like.scaling.uncertainty import bootstrap, coverage
from t5x_like.scaling.uncertainty.bootstrap import refit, wild_bootstrap
from t5x_like.scaling.uncertainty.intervals import METHODS, Delta, interval

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
    assert covered.min() > 0.91, report
    assert covered.mean() > 0.93, report
    assert width.min() > 0.7, report
    assert width.max() < 1.8, report


def test_that_simulation_rejects_raw_residuals_of_the_huber_fit(grid, truth, monkeypatch):
    """The textbook wild bootstrap fails the test above by far: the test can tell."""
    monkeypatch.setattr(
        bootstrap,
        "rescaled_residuals",
        lambda surface, target, estimate, groups: (target - surface.predict(estimate),) * 2,
    )
    monkeypatch.setattr(bootstrap, "POOLED", 0.0)
    covered, _ = simulate(grid(), truth, 0.01, simulations=80, replicates=80)
    assert covered.mean() < 0.85


@pytest.mark.parametrize(("told", "low", "high"), [(True, 0.88, 1.0), (False, 0.0, 0.85)])
def test_runs_of_one_trunk_move_together(told, low, high, truth):
    """Five sizes, two seeds, four budgets; of a run's noise .8 is its trunk's. Untold, alpha looks far too certain."""
    sizes, seeds, budgets = np.meshgrid(np.geomspace(1e6, 1e8, 5), np.arange(2), np.geomspace(1e8, 1e10, 4))
    params, tokens, trunk = sizes.ravel(), budgets.ravel(), (sizes * (1 + seeds)).ravel()
    exact = CHINCHILLA.predict(truth, {"params": params, "tokens": tokens})
    surface = Surface.over(CHINCHILLA, {"params": params, "tokens": tokens}, exact)
    theta = surface.scaled(np.array([[truth[name] for name in CHINCHILLA.parameters]]))
    _, group = np.unique(trunk, return_inverse=True)
    rng = np.random.default_rng(3)
    shared, own = rng.normal(size=(100, 10))[:, group], rng.normal(size=(100, 40))
    targets = surface.predict(theta) + 0.003 * (np.sqrt(0.8) * shared + np.sqrt(0.2) * own)
    estimates = refit(surface, targets, np.repeat(theta, 100, 0), DELTA)
    draws = wild_bootstrap(surface, targets, estimates, DELTA, 150, rng, groups=group if told else None)
    ends = interval(quantities(surface, draws)[..., CHINCHILLA.parameters.index("alpha")])
    covered = ((ends[0] <= truth["alpha"]) & (truth["alpha"] <= ends[1])).mean()
    assert low < covered <= high, covered


def test_interval_of_known_samples():
    samples = np.random.default_rng(0).permutation(np.arange(1001.0))
    low, high = interval(samples)
    assert (low, high) == (25, 975)


def test_a_bound_that_the_replicates_do_not_give_is_null():
    samples = np.concatenate([np.arange(90.0), np.full(10, np.nan)])
    assert pair(*interval(samples)) == [None, None]
    assert pair(*interval(np.concatenate([np.arange(90.0), np.full(10, np.inf)]))) == [2.0, None]


def test_methods_agree_where_least_squares_is_well_behaved(grid):
    """Little noise and a wide threshold: the law is then nearly linear, and all four methods say the same."""
    columns = grid(sizes=6, noise=5e-4, seed=1)
    ends = {
        method: np.array(list(fit_scaling_law(columns, huber_delta=1e6, interval_method=method).intervals.values()))
        for method in METHODS
    }
    width = np.diff(ends["delta"]).ravel()
    for method, found in ends.items():
        np.testing.assert_allclose(np.diff(found).ravel() / width, 1, atol=0.35, err_msg=method)
        np.testing.assert_allclose(found.mean(1), ends["delta"].mean(1), atol=0.25 * width.max(), err_msg=method)
    assert (np.abs(ends["profile"] - ends["delta"]) < 0.06 * width[:, None]).all()


def test_the_delta_method_is_scipys_covariance(grid):
    columns = grid(sizes=5, noise=0.003, seed=3)
    fit = fit_scaling_law(columns, huber_delta=1e6, interval_method="delta", bootstrap=0)

    def law(x, E, A, B, alpha, beta):
        return np.log(E + A / x[0] ** alpha + B / x[1] ** beta)

    x = np.stack([columns["params"], columns["tokens"]])
    found, covariance = optimize.curve_fit(law, x, np.log(columns["loss"]), p0=fit.vector, xtol=1e-14, ftol=1e-14)
    np.testing.assert_allclose(found, fit.vector, rtol=1e-5)
    reach = stats.t.ppf(0.975, 25 - 5)
    for name in ("E", "alpha", "beta"):  # linear or nearly: symmetric as they are, or in the logarithm
        i = fit.law.parameters.index(name)
        error = reach * np.sqrt(covariance[i, i])
        low, high = fit.intervals[name]
        assert high - low == pytest.approx(2 * error, rel=0.02)


def test_profile_ends_raise_the_sum_of_squares_by_what_f_allows(grid):
    """With the exponent held at an end of its interval, SciPy's best fit of the rest is worse by t^2 s^2."""
    columns = grid(sizes=5, noise=0.004, seed=6)
    fit = fit_scaling_law(columns, huber_delta=1e6, interval_method="profile", bootstrap=0)
    n, d, log_loss = columns["params"], columns["tokens"], np.log(columns["loss"])

    def cost(alpha):
        def residuals(x):
            return np.log(x[0] + x[1] / n**alpha * 1e1 + x[2] * 1e3 / d ** x[3]) - log_loss

        start = [fit.parameters["E"], fit.parameters["A"] / 10, fit.parameters["B"] / 1e3, fit.parameters["beta"]]
        return 2 * optimize.least_squares(residuals, start, xtol=1e-15, ftol=1e-15, gtol=1e-15).cost

    least = cost(fit.parameters["alpha"])
    allowed = stats.f.ppf(0.95, 1, 20) * least / 20
    for end in fit.intervals["alpha"]:
        assert cost(end) - least == pytest.approx(allowed, rel=0.05)


def test_pairs_bootstrap_gives_the_published_standard_errors(chinchilla):
    """Another program, 4,000 resamples of the 240 points: 120, 1,325, .0250, .0150, .0201 for A, B, E, alpha, beta.

    All must agree within 5 % but for B's: its replicates have a kurtosis of 30 to 60, so the standard deviation of
    4,000 of them is itself known to 4 to 6 % only, in each of the two programs.
    """
    fit = fit_scaling_law(chinchilla, interval_method="pairs", bootstrap=4000)
    errors = dict(zip(fit.law.parameters, np.sqrt(np.diag(fit.covariance)), strict=True))
    for name, published in {"A": 120, "E": 0.0250, "alpha": 0.0150, "beta": 0.0201}.items():
        assert errors[name] == pytest.approx(published, rel=0.05), name
    of_b = fit.draws[:, fit.law.parameters.index("B")]
    unsure = np.sqrt(2 * (stats.kurtosis(of_b, fisher=False) - 1) / (4 * len(of_b)))  # of the ratio of two
    assert errors["B"] == pytest.approx(1325, rel=max(0.05, 2 * unsure))
    for name, ends in {"alpha": (0.317, 0.372), "beta": (0.333, 0.415), "E": (1.772, 1.869)}.items():
        assert fit.intervals[name] == pytest.approx(ends, abs=0.2 * errors[name])  # ends of 4,000 are known to .06
    assert fit.compute_optimal["intervals"]["a"] == pytest.approx((0.482, 0.557), abs=0.003)


def test_joint_intervals_hold_all_parameters_at_once(grid, truth):
    fit = fit_scaling_law(grid(sizes=5, noise=0.003, seed=1), bootstrap=400)
    joint = np.array(list(fit.joint_intervals.values()))
    single = np.array(list(fit.intervals.values()))
    inside = ((fit.draws >= joint[:, 0]) & (fit.draws <= joint[:, 1])).all(1)
    assert 0.95 <= inside.mean() < 0.95 + 10 / 400  # ten replicates, one at each end of each parameter, go at once
    assert ((fit.draws >= single[:, 0]) & (fit.draws <= single[:, 1])).all(1).mean() < 0.93


def test_the_simulation_of_coverage_counts_what_it_says(grid, truth, monkeypatch):
    columns = grid(sizes=4)
    surface = Surface.over(CHINCHILLA, columns, columns["loss"])
    theta = surface.scaled(np.array([[truth[name] for name in CHINCHILLA.parameters]]))[0]
    options = {"methods": ("delta", "pairs"), "simulations": 60, "replicates": 40}
    found = coverage.simulate(surface, theta, 0.003, 1e-3, **options)["methods"]
    assert 0.85 < found["delta"]["mean"] <= 1
    assert len(found["pairs"]["coverage"]) == 11
    monkeypatch.setattr(Delta, "quantile", 1.0)  # one standard error to either side holds about two thirds
    narrow = coverage.simulate(surface, theta, 0.003, 1e-3, **{**options, "methods": ("delta",)})["methods"]
    assert 0.55 < narrow["delta"]["mean"] < 0.8
    assert coverage.best_method({"methods": {"wide": found["delta"], "narrow": narrow["delta"]}}) == "wide"


@pytest.mark.parametrize("law", ["params_only", "tokens_only", "compute_only"])
def test_profile_ends_of_laws_of_one_variable_are_where_least_squares_says(law):
    """The exponent held at each end, the rest solved exactly by linear least squares: the rise is what F allows."""
    x = np.geomspace(1e4, 1e7, 12)
    loss = (2.0 + 60.0 / x**0.35) * np.exp(0.004 * np.random.default_rng(1).normal(size=12))
    columns = {"params": x, "tokens": np.sqrt(x) * 1e3, "loss": loss}
    fit = fit_scaling_law(columns, law, huber_delta=1e6, interval_method="profile", bootstrap=0)
    read = {"params_only": x, "tokens_only": columns["tokens"], "compute_only": 6 * x * columns["tokens"]}[law]

    def cost(alpha):
        start = optimize.nnls(np.stack([np.ones(12), read**-alpha], 1) / loss[:, None], np.ones(12))[0]
        solved = optimize.least_squares(
            lambda c: np.log(c[0] + c[1] * (read / read[0]) ** -alpha) - np.log(loss),
            [max(start[0], 1e-3), start[1] * read[0] ** -alpha],
            bounds=(0, np.inf),
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
        )
        return 2 * solved.cost

    least = cost(fit.parameters["alpha"])
    allowed = stats.f.ppf(0.95, 1, 9) * least / 9
    for end in fit.intervals["alpha"]:
        if end not in (0.01, 3.0, None):
            assert cost(end) - least == pytest.approx(allowed, rel=0.1)
    assert fit.intervals["E"][0] >= 0


def test_a_parameter_at_its_bound_has_an_interval(grid):
    """E is .05 and fitted as 0: every method leaves room above the bound, and none below."""
    columns = grid(noise=0.01, seed=1, E=0.05)
    for method in METHODS:
        fit = fit_scaling_law(columns, interval_method=method, bootstrap=200)
        assert fit.parameters["E"] == 0
        low, high = fit.intervals["E"]
        assert low == 0
        assert 0.05 < high < 0.6
