# SPDX-License-Identifier: Apache-2.0
"""Expected intervals against formulas by hand and against simulated sweeps; chosen designs against grids and chance."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import special, stats

from t5x_like.errors import UserError
from t5x_like.files import write_json
from t5x_like.scaling.design import design
from t5x_like.scaling.design.cells import At, Cells, levels, place, plain_grid, read_cells
from t5x_like.scaling.design.prior import SMALL, Belief, belief_from, law_for_design, names, prior_over, question
from t5x_like.scaling.design.search import Limits
from t5x_like.scaling.fitting.fit import fit_scaling_law
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws.catalogue import CHINCHILLA, LAWS
from t5x_like.scaling.uncertainty.bootstrap import LEAST_SQUARES, refit

PARAMS, TOKENS = levels("params", "1e4:1e6"), levels("tokens", "2e5:4e6")
BUDGET = 3e13
AT = At(6 * 2e6 * 4e7, 2e6, 4e7)


@pytest.fixture(scope="module")
def prior():
    return prior_over(Belief(), Cells.product(PARAMS, TOKENS))


@pytest.fixture(scope="module")
def chosen(prior):
    """Every quantity's own design, and the question."""
    found = {}
    for name in names(CHINCHILLA):
        asked = question(CHINCHILLA, name, AT)
        found[name] = asked, design.choose(prior, asked, PARAMS, TOKENS, Limits(BUDGET, 20, 2))
    return found


def quantity(name, p):
    """What is narrowed, written out for the Chinchilla law; the last factor of error in logarithms."""
    E, A, B, alpha, beta = p
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    a = beta / (alpha + beta)
    size = scale * (AT.flops / 6) ** a
    return {
        **dict(zip(CHINCHILLA.parameters, p, strict=True)),
        "a": a,
        "N*": size,
        "D*": AT.flops / 6 / size,
        "tokens_per_param": AT.flops / 6 / size**2,
        "prediction": E + A / AT.params**alpha + B / AT.tokens**beta,
    }[name]


def slopes(function, p):
    """Central differences with steps in proportion."""
    steps = 1e-5 * np.diag(p)
    return np.array([(function(p + s) - function(p - s)) / (2 * s.sum()) for s in steps])


@pytest.mark.parametrize("delta", [LEAST_SQUARES, 1e-3])
def test_the_expected_interval_is_the_delta_method_by_hand(prior, delta):
    prior = dataclasses.replace(prior, huber_delta=delta)
    cells = Cells.of([1e4, 1e4, 3e4, 1e5, 3e5, 1e6, 1e6, 1e6], [2e5, 4e6, 1e6, 2e5, 4e6, 2e5, 1e6, 1e6])
    n, d = cells.runs
    p = np.array([SMALL[name] for name in CHINCHILLA.parameters])
    log_loss = slopes(lambda q: np.log(q[0] + q[1] / n ** q[3] + q[2] / d ** q[4]), p)
    c = delta / prior.noise
    inside, density = 2 * stats.norm.cdf(c) - 1, stats.norm.pdf(c)
    squared = inside - 2 * c * density + 2 * c**2 * stats.norm.sf(c)  # E[psi^2] of Huber's psi
    covariance = prior.noise**2 * squared / inside**2 * np.linalg.inv(log_loss @ log_loss.T)
    for name in names(CHINCHILLA):
        asked = question(CHINCHILLA, name, AT)
        gradient = slopes(lambda q, name=name: quantity(name, q), p)
        error = np.sqrt(gradient @ covariance @ gradient) / (quantity(name, p) if asked.factor else 1)
        found = design.expect(prior, asked, cells)
        assert found.value == pytest.approx(quantity(name, p), rel=1e-9)
        assert found.error == pytest.approx(error, rel=1e-4), name
        assert found.half_width == pytest.approx(stats.t.ppf(0.975, len(n) - 5) * error, rel=1e-4)
        middle = np.log([found.low, found.high]).mean() if asked.factor else (found.low + found.high) / 2
        if found.low > 0:
            assert middle == pytest.approx(np.log(found.value) if asked.factor else found.value)


@pytest.mark.parametrize("name", ["alpha", "beta", "E", "a", "N*", "prediction"])
def test_simulated_sweeps_scatter_as_expected(prior, chosen, name):
    """800 noisy sweeps on the chosen cells, each fitted: the standard deviation has an error of 2.5 %."""
    asked, cells = chosen[name]
    expected = design.expect(prior, asked, cells)
    n, d = cells.runs
    truth = CHINCHILLA.vector(SMALL)
    surface = Surface.over(
        CHINCHILLA, {"params": n, "tokens": d}, SMALL["E"] + SMALL["A"] / n**0.35 + SMALL["B"] / d**0.37
    )
    theta = surface.scaled(truth[None])
    noise = prior.noise * np.random.default_rng(3).normal(size=(800, len(n)))
    estimates = surface.natural(refit(surface, surface.predict(theta) + noise, np.tile(theta, (800, 1)), 1e-3))
    values = asked.of(estimates)[:, 0]
    values = np.log(values) if asked.factor else values
    # quantiles, because now and then an exponent ends far off
    spread = np.subtract(*np.quantile(values, [0.84134, 0.15866])) / 2
    assert spread == pytest.approx(expected.error, rel=0.12)
    assert np.median(values) == pytest.approx(
        np.log(expected.value) if asked.factor else expected.value, abs=0.3 * expected.error
    )


def test_a_fit_of_the_chosen_cells_has_the_interval_that_was_promised(prior, chosen):
    """The median over sweeps of what `fit_scaling_law` reports, by the delta method."""
    asked, cells = chosen["alpha"]
    n, d = cells.runs
    widths, held = [], 0
    for seed in range(12):
        noise = np.random.default_rng(seed).normal(size=len(n))
        loss = (SMALL["E"] + SMALL["A"] / n**0.35 + SMALL["B"] / d**0.37) * np.exp(prior.noise * noise)
        points = {"params": n, "tokens": d, "loss": loss}
        low, high = fit_scaling_law(points, bootstrap=0, interval_method="delta").intervals["alpha"]
        widths.append((high - low) / 2)
        held += low < 0.35 < high
    assert np.median(widths) == pytest.approx(design.expect(prior, asked, cells).half_width, rel=0.2)
    assert held >= 9  # of 12: with 95 %, fewer would happen once in 450 times


@pytest.mark.parametrize("name", names(CHINCHILLA))
def test_the_chosen_design_beats_grids_and_chance_of_equal_cost(prior, chosen, name):
    asked, cells = chosen[name]
    assert cells.cost <= BUDGET * (1 + 1e-9)
    own = design.expect(prior, asked, cells).half_width
    for k in (3, 4):
        grid = plain_grid(k, PARAMS, TOKENS, BUDGET, 20)
        assert grid.cost == pytest.approx(BUDGET, rel=1e-6)
        assert design.expect(prior, asked, grid).half_width > 1.1 * own
    rng = np.random.default_rng(0)
    offered = Cells.product(PARAMS, TOKENS)
    cost = 6 * offered.params * offered.tokens
    for _ in range(30):
        counts = np.zeros(len(cost), int)
        for i in rng.permutation(len(cost)):
            if counts.sum() < 20 and counts @ cost + cost[i] <= cells.cost:
                counts[i] = 1
        drawn = Cells(offered.params[counts > 0], offered.tokens[counts > 0], counts[counts > 0])
        assert design.expect(prior, asked, drawn).half_width > own


def test_a_chosen_design_can_check_its_law_and_leaves_the_line(chosen):
    for _, cells in chosen.values():
        assert len(cells.params) >= 8
        assert len(set(cells.params)) >= 4
        assert len(set(cells.tokens)) >= 4
        logs = np.stack([np.log(cells.params), np.log(cells.tokens)])
        assert abs(np.corrcoef(logs)[0, 1]) < 0.95


def test_a_design_for_one_quantity_is_best_for_it(prior, chosen):
    """alpha's cells tell more about alpha than E's do, and the other way round."""
    width = {
        (asked, made): design.expect(prior, chosen[asked][0], chosen[made][1]).half_width
        for asked, made in itertools.product(("alpha", "E", "prediction"), repeat=2)
    }
    for asked in ("alpha", "E", "prediction"):
        assert min(("alpha", "E", "prediction"), key=lambda made, a=asked: width[a, made]) == asked


@pytest.mark.parametrize(
    "law", ["chinchilla_tied", "power_of_sum", "kaplan", "kaplan_e", "multiplicative", "overtraining"]
)
def test_every_law_of_params_and_tokens_can_be_designed_for(law):
    prior = prior_over(Belief(law=law), Cells.product(PARAMS, TOKENS))
    asked = question(LAWS[law], "prediction", AT)
    cells = design.choose(prior, asked, PARAMS, TOKENS, Limits(BUDGET, 16, 2))
    plan = design.judge(prior, asked, cells, (PARAMS, TOKENS), BUDGET)
    rivals = [expected for k, _, expected in plan.grids if k <= 4]  # the 5 x 5 grid has more runs than were allowed
    assert len(rivals) == 2
    assert all(rival.half_width > plan.expected.half_width for rival in rivals)
    assert plan.extrapolation == pytest.approx(AT.flops / cells.largest)


def test_simulate_agrees_with_what_was_expected(prior, chosen):
    asked, cells = chosen["alpha"]
    plan = design.judge(prior, asked, cells)
    found = design.simulate(plan, 40)
    assert found["expected_middle"] == pytest.approx(2 * 1.959964 * plan.expected.error, rel=1e-6)
    assert found["middle"][0] == pytest.approx(found["expected_middle"], rel=0.35)
    assert found["methods"]["delta"]["coverage"][0] >= 0.85
    assert found["methods"]["delta"]["width"][0] * found["middle"][0] / 2 == pytest.approx(
        plan.expected.half_width, rel=0.15
    )


def test_warnings_of_a_plan(prior):
    asked = question(CHINCHILLA, "prediction", At(1e17))
    found = design.judge(prior, asked, read_cells("3x3", PARAMS, TOKENS), budget=1e13).warnings
    assert any("times beyond the largest run" in text for text in found)
    assert any("times the budget" in text for text in found)
    cheap = design.judge(prior, asked, read_cells("3x3", PARAMS, TOKENS), budget=1e15).warnings
    assert any("more --cells" in text for text in cheap)
    few = design.judge(prior, question(CHINCHILLA, "alpha", AT), Cells.product(PARAMS[:3], TOKENS[:3])).warnings
    assert any("hardly be determined" in text for text in few)
    seven = Cells.of([1e4, 1e4, 1e5, 1e5, 1e6, 1e6, 3e5], [2e5, 4e6, 1e6, 2e5, 4e6, 2e5, 1e6])
    assert any("Only 7 different cells" in text for text in design.judge(prior, asked, seven).warnings)


# --- Priors ---------------------------------------------------------------------------------------------------------


def test_priors_move_one_exponent_and_keep_every_term_in_the_middle():
    prior = prior_over(Belief(steps={"beta": 0.1}), Cells.product(PARAMS, TOKENS))
    assert len(prior.vectors) == 5
    n, d = np.exp(np.log(PARAMS).mean()), np.exp(np.log(TOKENS).mean())
    for E, A, B, alpha, beta in prior.vectors:
        assert [E, A / n**alpha, B / d**beta] == pytest.approx([2.0, 40 / n**0.35, 120 / d**0.37], rel=1e-3)
    steps = np.log(prior.vectors[1:, 3:] / prior.vectors[0, 3:])
    np.testing.assert_allclose(steps, [[-0.2, 0], [0.2, 0], [0, -0.1], [0, 0.1]], atol=1e-9)


def test_given_exponents_keep_the_default_terms_and_given_coefficients_are_kept():
    cells = Cells.product(PARAMS, TOKENS)
    n = np.exp(np.log(PARAMS).mean())
    found = prior_over(belief_from("alpha=.5,B=99"), cells).parameters
    assert found["A"] / n**0.5 == pytest.approx(40 / n**0.35, rel=1e-3)
    assert (found["alpha"], found["B"]) == (0.5, pytest.approx(99))
    large = prior_over(Belief(), Cells.product(levels("params", "1e7:1e10"), levels("tokens", "1e9:1e11"))).parameters
    assert large["A"] == pytest.approx(477.8)


def test_a_fit_is_a_prior(grid, truth, tmp_path):
    fit = fit_scaling_law(grid(noise=0.004, seed=1), bootstrap=200)
    write_json(tmp_path / "fit.json", fit.to_json())
    belief = belief_from(tmp_path)
    prior = prior_over(belief, Cells.product(PARAMS, TOKENS))
    assert prior.parameters == pytest.approx(fit.parameters)
    assert prior.noise == pytest.approx(fit.residual_rms * np.sqrt(16 / 11))
    low, high = fit.intervals["alpha"]
    assert prior.vectors[2][3] / prior.vectors[0][3] == pytest.approx(
        np.exp((high - low) / 3.92 / fit.parameters["alpha"])
    )


def test_a_fit_whose_e_is_zero_still_is_a_prior(grid, tmp_path):
    content = fit_scaling_law(grid(noise=0.004, seed=1), bootstrap=0).to_json()
    content["parameters"]["E"] = 0.0
    write_json(tmp_path / "fit.json", content)
    prior = prior_over(belief_from(tmp_path / "fit.json"), Cells.product(PARAMS, TOKENS))
    assert 0 < prior.parameters["E"] < 0.3
    assert "E is 0" in prior.source
    content["parameters"]["A"] = 0.0
    write_json(tmp_path / "fit.json", content)
    with pytest.raises(UserError, match="A = 0"):
        prior_over(belief_from(tmp_path / "fit.json"), Cells.product(PARAMS, TOKENS))


# --- Cells and refusals ---------------------------------------------------------------------------------------------


def test_ranges_lists_and_places():
    np.testing.assert_allclose(levels("params", "10k:1M"), np.geomspace(1e4, 1e6, 11), rtol=5e-3)
    assert levels("tokens", "4e5,1e5,200k").tolist() == [1e5, 2e5, 4e5]
    assert place("1e7:2e8") == At(6 * 1e7 * 2e8, 1e7, 2e8)
    assert place("1e18") == At(1e18)


def test_cells_are_read_from_everything_that_has_them(tmp_path, write_points):
    inline = read_cells("1e4:2e5,1e4:2e5,1e5:4e5", PARAMS, TOKENS)
    assert (inline.params.tolist(), inline.tokens.tolist(), inline.counts.tolist()) == ([1e4, 1e5], [2e5, 4e5], [2, 1])
    rows = [{"params": 1e4, "tokens": 2e5}, {"params": 1e4, "tokens": 2e5}, {"params": 1e5, "tokens": 4e5}]
    assert read_cells(str(write_points(rows)), PARAMS, TOKENS).counts.tolist() == [2, 1]
    tried = [{**row, "loss": 3 + i, "learning_rate": 0.01 * (i + 1)} for i, row in enumerate(rows)]
    assert read_cells(str(write_points(tried).parent), PARAMS, TOKENS).counts.tolist() == [1, 1]
    assert len(read_cells("4x5", PARAMS, TOKENS)) == 20
    write_json(tmp_path / "design.json", {"cells": [{"params": 1e4, "tokens": 2e5, "runs": 3}]})
    assert read_cells(str(tmp_path), PARAMS, TOKENS).counts.tolist() == [3]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: levels("params", "1e4,1e5"), "two values"),
        (lambda: levels("params", "1e4:1.1e4"), "factor of 1.1"),
        (lambda: levels("tokens", "4e6:2e5"), "expected low:high"),
        (lambda: levels("tokens", "lots"), "no number"),
        (lambda: place("1:2:3"), "params:tokens"),
        (lambda: read_cells("none.csv", PARAMS, TOKENS), "no such file"),
        (lambda: read_cells("0x4", PARAMS, TOKENS), "a grid such as 4x4"),
        (lambda: read_cells("1e4:2e5:3", PARAMS, TOKENS), "params:tokens"),
        (lambda: question(CHINCHILLA, "alhpa", AT), "did you mean 'alpha'"),
        (lambda: law_for_design("experts"), "reads params, experts"),
        (lambda: law_for_design("chinchila"), "did you mean 'chinchilla'"),
        (lambda: belief_from("alpha=x"), "name=number"),
        (lambda: prior_over(belief_from("gamma=.3"), Cells.product(PARAMS, TOKENS)), "'gamma'"),
        (lambda: prior_over(belief_from("alpha=5"), Cells.product(PARAMS, TOKENS)), "alpha = 5"),
    ],
)
def test_mistakes_get_one_line(act, said):
    with pytest.raises(UserError, match=said) as error:
        act()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("law", "name", "limits", "said"),
    [
        ("chinchilla", "alpha", Limits(1e9, 20, 2), r"give --budget=2\.1e11 or more"),
        ("chinchilla", "alpha", Limits(BUDGET, 7, 2), "--cells=8 or more"),
        ("chinchilla_tied", "a", Limits(BUDGET, 20, 2), "0.500 whatever the losses"),
        ("multiplicative", "N*", Limits(BUDGET, 20, 2), "no compute-optimal sizes"),
    ],
)
def test_designs_that_cannot_work_are_refused(law, name, limits, said):
    prior = prior_over(Belief(law=law), Cells.product(PARAMS, TOKENS))
    with pytest.raises(UserError, match=said):
        design.choose(prior, question(LAWS[law], name, AT), PARAMS, TOKENS, limits)


def test_the_budget_that_a_refusal_names_is_enough(prior):
    asked = question(CHINCHILLA, "alpha", AT)
    cells = design.choose(prior, asked, PARAMS, TOKENS, Limits(2.1e11, 20, 2))
    assert len(cells) >= 8


def test_cells_on_a_line_are_refused(prior):
    line = Cells.of(PARAMS, 20 * PARAMS)
    with pytest.raises(UserError, match="one line"):
        design.judge(prior, question(CHINCHILLA, "alpha", AT), line)


def test_student_t_and_normal_quantiles(prior, chosen):
    """The half width over the standard error is t with n - 5 degrees, more than the normal 1.96."""
    asked, cells = chosen["E"]
    found = design.expect(prior, asked, cells)
    assert found.half_width / found.error == pytest.approx(special.stdtrit(len(cells) - 5, 0.975))
