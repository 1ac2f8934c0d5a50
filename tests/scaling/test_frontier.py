# SPDX-License-Identifier: Apache-2.0
"""The closed-form frontier against numerical minimisation and published figures."""

import numpy as np
import pytest
from scipy import optimize

from t5x_like.scaling.laws.catalogue import CHINCHILLA, TIED
from t5x_like.scaling.laws.frontier import BEYOND, budgets, compute_optimal, frontier


@pytest.mark.parametrize("law", [CHINCHILLA, TIED], ids=lambda law: law.name)
def test_closed_form_is_the_numerical_minimum(law, truth):
    vector = np.array([truth[name] for name in law.parameters])
    flops = np.array([1e12, 1e15, 1e20])
    best = frontier(law, vector, flops)
    for i, budget in enumerate(flops):

        def loss(log_params, budget=budget):
            params = np.exp(log_params)
            return float(law.predict(law.named(vector), {"params": params, "tokens": budget / 6 / params}))

        found = optimize.minimize_scalar(
            loss, bounds=(0, np.log(budget / 6)), method="bounded", options={"xatol": 1e-10}
        )
        assert best.loss[i] == pytest.approx(found.fun, rel=1e-12)
        assert np.log(best.params[i]) == pytest.approx(found.x, abs=1e-4)
        assert 6 * best.params[i] * best.tokens[i] == pytest.approx(budget, rel=1e-12)
    slope = np.diff(np.log(best.params)) / np.diff(np.log(flops))
    np.testing.assert_allclose(slope, best.a, rtol=1e-12)
    assert best.a + best.b == pytest.approx(1)


def test_hoffmanns_own_parameters_give_their_exponents():
    """Hoffmann et al. 2022, table 2: approach 3 has a = .46 and b = .54."""
    best = frontier(CHINCHILLA, np.array([1.6934, 406.40, 410.72, 0.33917, 0.28491]), np.array([5.76e23]))
    assert (round(float(best.a), 2), round(float(best.b), 2)) == (0.46, 0.54)


def test_budgets_reach_from_the_smallest_to_beyond_the_largest():
    compute = np.array([3e12, 7e10, 5e14])
    flops = budgets(compute)
    assert flops[0] == pytest.approx(7e10)
    assert flops[-1] == pytest.approx(BEYOND * 5e14)
    assert np.isclose(flops, 5e14, rtol=1e-12).sum() == 1
    assert (np.diff(np.log(flops)) > 0.3).all()


def test_no_optimum_without_a_size_term(truth):
    vector = np.array([truth["E"], 0.0, truth["B"], truth["alpha"], truth["beta"]])
    assert compute_optimal(CHINCHILLA, vector, None, np.array([1e12, 1e14])) is None
