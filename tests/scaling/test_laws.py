# SPDX-License-Identifier: Apache-2.0
"""Laws are declarations: each against its formula written by hand, and one this package has never seen goes through."""

import numpy as np
import pytest

from t5x_like import fit_scaling_law
from t5x_like.errors import UserError
from t5x_like.scaling.fitting.solver import find_minimum
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws.catalogue import LAWS, get_law
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.report.report import write_report

# E + A (N^-alpha + R D^-beta): one coefficient, three exponents; not in the package.
SUMMED = Law(
    name="summed",
    formula="E + A * (1 / params^alpha + R / tokens^beta)",
    variables=("params", "tokens"),
    linear=("E", "A"),
    nonlinear={"alpha": (0.05, 2.0), "beta": (0.05, 2.0), "R": (0.1, 1000.0)},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"] + x["R"] * v["tokens"] ** -x["beta"]),
)


def repeated(value, unique, decay):
    return unique + unique * decay * (1 - np.exp(-(value / unique - 1) / decay))


def muennighoff(N, D, U, E, A, B, alpha, R_D, R_N):
    unique_tokens = np.minimum(U, D)
    optimal_params = unique_tokens * (A / B) ** (1 / alpha)  # alpha = beta: N* / D* = G^2
    effective_params = repeated(N, np.minimum(optimal_params, N), R_N)
    return E + A / effective_params**alpha + B / repeated(D, unique_tokens, R_D) ** alpha


_SHUFFLED = np.random.default_rng(1)
MORE = {  # further columns of the design
    "granularity": _SHUFFLED.permutation(np.tile([1.0, 2.0, 4.0, 8.0, 16.0], 5)),
    "bits": _SHUFFLED.permutation(np.tile([3.0, 4.0, 6.0, 8.0, 16.0], 5)),
    "vocab_params": _SHUFFLED.permutation(np.tile(np.geomspace(1e3, 1e5, 5), 5)),
    "share": np.linspace(0.02, 0.98, 25),
    "teacher_loss": _SHUFFLED.permutation(np.linspace(1.8, 3.4, 25)),
    "alone_loss": _SHUFFLED.permutation(np.linspace(2.0, 4.0, 25)),
    "task_loss": np.linspace(0.3, 3.0, 25),
    "distance": np.linspace(0.2, 6.0, 25),
    "tuning_data": _SHUFFLED.permutation(np.tile(np.geomspace(1e4, 1e7, 5), 5)),
    "rank": _SHUFFLED.permutation(np.tile([1.0, 4.0, 16.0, 64.0, 256.0], 5)),
    "pretraining_tokens": _SHUFFLED.permutation(np.tile(np.geomspace(1e6, 1e8, 5), 5)),
}

# name: (parameters, the law by hand of N, D, C, U unique tokens, X experts)
BY_HAND = {
    "chinchilla": (
        {"E": 3.0, "A": 20.0, "B": 800.0, "alpha": 0.34, "beta": 0.4},
        lambda N, D, C, U, X, E, A, B, alpha, beta: E + A / N**alpha + B / D**beta,
    ),
    "chinchilla_tied": (
        {"E": 3.0, "A": 20.0, "B": 800.0, "alpha": 0.4},
        lambda N, D, C, U, X, E, A, B, alpha: E + A / N**alpha + B / D**alpha,
    ),
    "power_of_sum": (
        {"E": 1.5, "A": 200.0, "B": 8000.0, "alpha": 0.6, "beta": 0.7, "k": 0.5},
        lambda N, D, C, U, X, E, A, B, alpha, beta, k: E + (A / N**alpha + B / D**beta) ** k,
    ),
    "kaplan": (
        {"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.103},
        lambda N, D, C, U, X, Nc, Dc, alpha_N, alpha_D: ((Nc / N) ** (alpha_N / alpha_D) + Dc / D) ** alpha_D,
    ),
    "kaplan_e": (
        {"E": 1.0, "Nc": 1e8, "Dc": 1e9, "alpha_N": 0.2, "alpha_D": 0.3},
        lambda N, D, C, U, X, E, Nc, Dc, alpha_N, alpha_D: E + ((Nc / N) ** (alpha_N / alpha_D) + Dc / D) ** alpha_D,
    ),
    "multiplicative": (
        {"E": 1.5, "A": 30.0, "alpha": 0.1, "beta": 0.15},
        lambda N, D, C, U, X, E, A, alpha, beta: E + A * N**-alpha * D**-beta,
    ),
    "overtraining": (
        {"E": 1.5, "a": 60.0, "b": 90.0, "eta": 0.15},
        lambda N, D, C, U, X, E, a, b, eta: E + (a * (D / N) ** eta + b * (D / N) ** -eta) * (6 * N * D) ** -eta,
    ),
    "data_constrained": (
        {"E": 1.8, "A": 300.0, "B": 800.0, "alpha": 0.35, "R_D": 15.0, "R_N": 5.0},
        lambda N, D, C, U, X, **p: muennighoff(N, D, U, **p),
    ),
    "experts": (
        {"a": -0.08, "b": -0.11, "c": 0.009, "d": 1.1},
        lambda N, D, C, U, X, a, b, c, d: 10 ** (a * np.log10(N) + b * np.log10(X) + c * np.log10(N) * np.log10(X) + d),
    ),
    "granularity": (
        {"E": 1.5, "g": 9.0, "A": 20.0, "B": 800.0, "alpha": 0.3, "beta": 0.45, "gamma": 0.6},
        lambda N, D, C, U, X, E, g, A, B, alpha, beta, gamma: (
            E + (g / MORE["granularity"] ** gamma + A) / N**alpha + B / D**beta
        ),
    ),
    "precision": (
        {"E": 1.5, "A": 20.0, "B": 800.0, "alpha": 0.3, "beta": 0.45, "gamma": 2.6},
        lambda N, D, C, U, X, E, A, B, alpha, beta, gamma: (
            E + A / (N * (1 - np.exp(-MORE["bits"] / gamma))) ** alpha + B / D**beta
        ),
    ),
    "vocabulary": (
        {"E": 1.5, "A": 20.0, "V": 30.0, "B": 800.0, "alpha": 0.3, "gamma": 0.6, "beta": 0.45},
        lambda N, D, C, U, X, E, A, V, B, alpha, gamma, beta: (
            E + A / N**alpha + V / MORE["vocab_params"] ** gamma + B / D**beta
        ),
    ),
    "mixing": ({"E": 1.2, "K": 2.5, "t": -4.0}, lambda N, D, C, U, X, E, K, t: E + K * np.exp(t * MORE["share"])),
    "distillation": (
        {"T": 1.0, "A": 20.0, "B": 800.0, "alpha": 0.3, "beta": 0.45, "gamma": 0.7, "c0": 1.5}
        | {"c1": 6.0, "d1": 1.2, "f1": 0.3},
        lambda N, D, C, U, X, T, A, B, alpha, beta, gamma, c0, c1, d1, f1: (
            T * MORE["teacher_loss"]
            + MORE["teacher_loss"] ** -c0
            * (1 + (MORE["teacher_loss"] / MORE["alone_loss"] / d1) ** (1 / f1)) ** (-c1 * f1)
            * (A / N**alpha + B / D**beta) ** gamma
        ),
    ),
    "step_rate": (
        {"K": 1.79, "a": -0.713, "b": 0.307},
        lambda N, D, C, U, X, K, a, b: K * N**a * D**b,
    ),
    "step_batch": ({"K": 0.58, "b": 0.571}, lambda N, D, C, U, X, K, b: K * D**b),
    "over_optimisation": (
        {"beta": 0.3, "zero": 20.0},
        lambda N, D, C, U, X, beta, zero: MORE["distance"] * (beta * np.log(zero) - beta * np.log(MORE["distance"])),
    ),
    "best_of_n": (
        {"alpha": 0.6, "zero": 9.0},
        lambda N, D, C, U, X, alpha, zero: MORE["distance"] * (alpha - alpha / zero * MORE["distance"]),
    ),
    "task_accuracy": (
        {"floor": 0.25, "height": 0.7, "midpoint": 1.2, "width": 0.2},
        lambda N, D, C, U, X, floor, height, midpoint, width: (
            floor + height / (1 + np.exp((MORE["task_loss"] - midpoint) / width))
        ),
    ),
    "transferred": (
        {"k": 1.9e4, "alpha": 0.18, "beta": 0.38},
        lambda N, D, C, U, X, k, alpha, beta: k * MORE["tuning_data"] ** alpha * N**beta,
    ),
    "transfer": (
        {"E": 1.5, "A": 20.0, "B": 800.0, "alpha": 0.3, "beta": 0.45, "k": 50.0, "gamma": 0.3, "delta": 0.4},
        lambda N, D, C, U, X, E, A, B, alpha, beta, k, gamma, delta: (
            E + A / N**alpha + B / (MORE["tuning_data"] + k * MORE["tuning_data"] ** gamma * N**delta) ** beta
        ),
    ),
    "tuned_params": (
        {"E": 0.6, "A": 90.0, "alpha": 0.36, "beta": 0.08},
        lambda N, D, C, U, X, E, A, alpha, beta: E + A / (N**alpha * MORE["tuning_data"] ** beta),
    ),
    "tuned_pretraining_tokens": (
        {"E": 0.6, "A": 90.0, "alpha": 0.18, "beta": 0.08},
        lambda N, D, C, U, X, E, A, alpha, beta: (
            E + A / (MORE["pretraining_tokens"] ** alpha * MORE["tuning_data"] ** beta)
        ),
    ),
    "tuned_rank": (
        {"E": 0.6, "A": 1.4, "alpha": -0.02, "beta": 0.08},
        lambda N, D, C, U, X, E, A, alpha, beta: E + A / (MORE["rank"] ** alpha * MORE["tuning_data"] ** beta),
    ),
    "params_only": ({"E": 1.5, "A": 20.0, "alpha": 0.3}, lambda N, D, C, U, X, E, A, alpha: E + A / N**alpha),
    "params_only_pure": ({"A": 20.0, "alpha": 0.3}, lambda N, D, C, U, X, A, alpha: A / N**alpha),
    "tokens_only": ({"E": 1.5, "A": 800.0, "alpha": 0.5}, lambda N, D, C, U, X, E, A, alpha: E + A / D**alpha),
    "tokens_only_pure": ({"A": 800.0, "alpha": 0.5}, lambda N, D, C, U, X, A, alpha: A / D**alpha),
    "compute_only": ({"E": 1.5, "A": 80.0, "alpha": 0.15}, lambda N, D, C, U, X, E, A, alpha: E + A / C**alpha),
    "compute_only_pure": ({"A": 80.0, "alpha": 0.1}, lambda N, D, C, U, X, A, alpha: A / C**alpha),
    "shifted_compute": (
        {"E": 0.1, "K": 30.0, "c": 0.3, "C0": 1e10},
        lambda N, D, C, U, X, E, K, c, C0: E + K * (C + C0) ** -c,
    ),
    "emergence": (
        {"floor": 0.25, "height": 0.7, "midpoint": 11.0, "width": 0.4},
        lambda N, D, C, U, X, floor, height, midpoint, width: (
            floor + height / (1 + np.exp((midpoint - np.log10(C)) / width))
        ),
    ),
}


def first(design):
    """The columns that every law by hand is given."""
    return [design[name] for name in ("params", "tokens", "compute", "unique_tokens", "experts")]


@pytest.fixture(scope="module")
def design():
    """A 5 x 5 grid of params and tokens, half of it with few unique tokens, and a number of experts for each cell."""
    params, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(5e3, 5e5, 5), np.geomspace(2.5e5, 4e6, 5)))
    experts = np.random.default_rng(0).permutation(np.tile([1.0, 4.0, 16.0, 64.0, 256.0], 5))
    unique = np.minimum(tokens, np.where(np.arange(25) % 2, 2e5, 6e5))
    return {
        "params": params,
        "tokens": tokens,
        "compute": 6 * params * tokens,
        "unique_tokens": unique,
        "experts": experts,
        **MORE,
    }


def test_every_law_is_written_by_hand_here():
    assert set(BY_HAND) == set(LAWS)


@pytest.mark.parametrize("name", LAWS)
def test_predictions_are_the_formula_and_a_fit_gives_the_parameters_back(name, design):
    law, (parameters, by_hand) = LAWS[name], BY_HAND[name]
    expected = by_hand(*first(design), **parameters)
    np.testing.assert_allclose(law.predict(parameters, design), expected, rtol=1e-12)
    surface = Surface.over(law, design, expected)
    theta = surface.scaled(law.vector(parameters)[None])
    np.testing.assert_allclose(surface.natural(theta)[0], law.vector(parameters), rtol=1e-9)
    np.testing.assert_allclose(surface.predict(theta)[0], surface.response(expected), atol=1e-12)
    found, _, _ = find_minimum(surface, surface.response(expected), 1e-3)
    np.testing.assert_allclose(surface.natural(found[None])[0], law.vector(parameters), rtol=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_slopes_of_every_law_are_those_of_its_predictions(name, design):
    law = LAWS[name]
    parameters, by_hand = BY_HAND[name]
    surface = Surface.over(law, design, by_hand(*first(design), **parameters))
    theta = surface.scaled(law.vector(parameters)[None])
    _, jacobian = surface.jacobian(theta)
    for p in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[p] = 1e-6
        slope = (surface.predict(theta + step) - surface.predict(theta - step)) / 2e-6
        np.testing.assert_allclose(jacobian[0, p], slope[0], rtol=1e-5, atol=1e-8, err_msg=law.searched[p])


def test_muennighoffs_two_published_predictions():
    """Muennighoff et al. 2023's constants; the values are what their own code prints for two of their models."""
    constants = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974), "alpha": 0.3526596}
    constants |= {"R_D": 15.387756, "R_N": 5.309743}
    for params, tokens, loss in ((6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)):
        ours = LAWS["data_constrained"].predict(constants, {"params": params, "tokens": tokens, "unique_tokens": 25e9})
        assert float(ours) == pytest.approx(loss, rel=1e-12)


def test_a_law_of_repeats_needs_points_that_repeat(design):
    points = {**design, "loss": BY_HAND["chinchilla"][1](*first(design), **BY_HAND["chinchilla"][0])}
    points["unique_tokens"] = points["tokens"]
    with pytest.raises(UserError, match=r"none of them saw its data more than 1\.5 times"):
        fit_scaling_law(points, "data_constrained", bootstrap=0)
    del points["unique_tokens"]
    with pytest.raises(UserError, match=r"law 'data_constrained' reads the column 'unique_tokens'"):
        fit_scaling_law(points, "data_constrained", bootstrap=0)


def test_a_users_law_is_fitted_and_reported(grid, truth, tmp_path):
    fit = fit_scaling_law(grid(), SUMMED, bootstrap=100)
    expected = {**truth, "R": truth["B"] / truth["A"]}
    for name, value in fit.parameters.items():
        assert value == pytest.approx(expected[name], rel=1e-4)
    # no closed form was given, so the optimum is searched, and it is the one of the same law in Hoffmann's letters
    same = fit_scaling_law(grid(), bootstrap=0).frontier([1e13])[0]
    ours = fit.frontier([1e13])[0]
    assert ours["params"] == pytest.approx(same["params"], rel=1e-4)
    assert fit.compute_optimal["a"] == pytest.approx(truth["beta"] / (truth["alpha"] + truth["beta"]), rel=1e-4)
    write_report(fit, tmp_path)
    assert {"fit.json", "report.html", "loss_by_tokens.png", "residuals.png"} <= {p.name for p in tmp_path.iterdir()}


def test_tied_exponents_recover_a_tied_surface(grid):
    fit = fit_scaling_law(grid(alpha=0.4, beta=0.4), "chinchilla_tied", bootstrap=0)
    assert fit.parameters["alpha"] == pytest.approx(0.4, rel=1e-5)
    assert fit.compute_optimal is not None
    assert fit.compute_optimal["a"] == pytest.approx(0.5)


def test_a_sigmoid_of_accuracy_goes_through_the_fit(design):
    rng = np.random.default_rng(0)
    parameters, by_hand = BY_HAND["emergence"]
    accuracy = by_hand(None, None, design["compute"], None, None, **parameters) + 0.005 * rng.normal(size=25)
    points = {"params": design["params"], "tokens": design["tokens"], "loss": np.ones(25), "accuracy": accuracy}
    fit = fit_scaling_law(points, "emergence", huber_delta="auto", bootstrap=200)
    for name, (low, high) in fit.intervals.items():
        assert low < parameters[name] < high
    assert fit.residual_rms == pytest.approx(0.005, rel=0.3)
    assert fit.compute_optimal is None
    assert not any("compute-optimal" in warning for warning in fit.warnings)
    assert float(fit.predict(compute=1e11)) == pytest.approx(0.25 + 0.35, abs=0.01)


def test_laws_say_what_is_missing():
    with pytest.raises(UserError, match=r"'chinchila' is not known.*did you mean 'chinchilla'"):
        get_law("chinchila")
    with pytest.raises(UserError, match=r"law 'chinchilla' needs the variable 'tokens'; given: params"):
        LAWS["chinchilla"].predict(BY_HAND["chinchilla"][0], {"params": 1e6})
    with pytest.raises(UserError, match=r"law 'chinchilla' needs the parameter 'E'; given: A"):
        LAWS["chinchilla"].predict({"A": 1.0}, {"params": 1e6, "tokens": 1e6})


def test_a_tasks_accuracy_takes_two_steps(design, tmp_path):
    """Bhagia et al. 2024: its loss by params and tokens, its accuracy by that loss; both from a sweep's own columns."""
    loss = BY_HAND["chinchilla"][1](*first(design), **BY_HAND["chinchilla"][0])
    middle = float(np.median(loss))
    accuracy = 0.25 + 0.7 / (1 + np.exp((loss - middle) / 0.3))
    rows = np.column_stack([design["params"], design["tokens"], 0 * loss + 3, loss, accuracy])
    head = "params,tokens,loss,loss_quiz,accuracy_quiz"
    np.savetxt(tmp_path / "points.csv", rows, delimiter=",", header=head, comments="", fmt="%.17g")
    one = fit_scaling_law(tmp_path / "points.csv", columns={"loss": "loss_quiz"}, bootstrap=0)
    assert one.parameters == pytest.approx(BY_HAND["chinchilla"][0], rel=1e-4)
    columns = {"task_loss": "loss_quiz", "accuracy": "accuracy_quiz"}
    two = fit_scaling_law(tmp_path / "points.csv", "task_accuracy", columns=columns, bootstrap=0)
    assert two.parameters == pytest.approx({"floor": 0.25, "height": 0.7, "midpoint": middle, "width": 0.3}, rel=1e-4)
