# SPDX-License-Identifier: Apache-2.0
"""The search for a design against brute force, and against a bound that no design can beat."""

import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from t5x_like.scaling.design.search import CAUTION, Candidates, Limits, _State, enough, search


def problem(sizes, budgets, priors=2, parameters=3, seed=0):
    """Candidates with made-up slopes: the search knows nothing of laws."""
    rng = np.random.default_rng(seed)
    params, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(1e3, 1e5, sizes), np.geomspace(1e5, 1e6, budgets)))
    x, y = np.log(params / 1e4), np.log(tokens / 3e5)
    basis = np.stack([np.ones_like(x), x, y, x * y, x**2][:parameters])
    slopes = np.stack([basis * rng.uniform(0.8, 1.2, size=(parameters, 1)) for _ in range(priors)])
    return Candidates(params, tokens, slopes, rng.normal(size=(priors, parameters)))


def by_hand(candidates, counts):
    """The score, written out: mean over priors of ln (t^2 g' M^-1 g) + caution * ln det M^-1 / P."""
    total = 0.0
    for slopes, wanted in zip(candidates.slopes, candidates.wanted, strict=True):
        information = sum(n * np.outer(x, x) for n, x in zip(counts, slopes.T, strict=True))
        inverse = np.linalg.inv(information)
        t = stats.t.ppf(0.975, counts.sum() - len(wanted))
        volume = -np.linalg.slogdet(information)[1] / len(wanted)
        total += np.log(t**2 * wanted @ inverse @ wanted) + CAUTION * volume
    return total / len(candidates.slopes)


def test_every_single_change_is_scored_as_if_the_design_were_judged_anew():
    candidates = problem(4, 4)
    counts = np.random.default_rng(1).integers(0, 3, size=16)
    state = _State(candidates, counts)
    assert state.score == pytest.approx(by_hand(candidates, counts), abs=1e-6)
    added = [by_hand(candidates, counts + np.eye(16, dtype=int)[j]) for j in range(16)]
    np.testing.assert_allclose(state.added(), added, atol=1e-6)
    out = np.flatnonzero(counts)
    changes = np.eye(16, dtype=int)
    exchanged = [[by_hand(candidates, counts - changes[i] + changes[j]) for j in range(16)] for i in out]
    np.testing.assert_allclose(state.exchanged(out), exchanged, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_the_best_of_all_designs_is_found(share, seed):
    """12 candidates, up to 7 runs of different cells: all 792 + 924 of them are tried, and those that are too dear
    or have too few sizes or token counts refused."""
    candidates = problem(3, 4, seed=seed)
    limits = Limits(share * np.sort(candidates.cost)[-7:].sum(), 7, 1)
    best = np.inf
    for n in (enough(3), 7):
        for cells in itertools.combinations(range(12), n):
            counts = np.zeros(12, int)
            counts[list(cells)] = 1
            sizes, tokens = (len(set(values[list(cells)])) for values in (candidates.params, candidates.tokens))
            if counts @ candidates.cost <= limits.budget and sizes == 3 and tokens == 4:
                best = min(best, by_hand(candidates, counts))
    found = search(candidates, limits)
    assert found @ candidates.cost <= limits.budget * (1 + 1e-9)
    assert by_hand(candidates, found) == pytest.approx(best, abs=1e-6)


def relaxed_bound(candidates, limits, steps=400):
    """A score that no design with `limits.cells` runs can beat, also with fractions of runs.

    The score is convex in the counts, so any tangent plane bounds it from below; its least value within the limits is a
    linear programme. Frank-Wolfe steps make the bound tight.
    """
    c, cost = len(candidates.cost), candidates.cost
    scale = cost.max()
    rows = np.stack([cost / scale, np.ones(c)])
    ends = np.array([limits.budget / scale, limits.cells])
    t = stats.t.ppf(0.975, limits.cells - candidates.slopes.shape[1])

    def value_and_slope(w):
        value, slope = 2 * np.log(t), np.zeros(c)
        for x, g in zip(candidates.slopes, candidates.wanted, strict=True):
            inverse = np.linalg.inv((x * w) @ x.T)
            aimed = inverse @ g
            value += (np.log(g @ aimed) + CAUTION * np.linalg.slogdet(inverse)[1] / len(g)) / len(candidates.slopes)
            reach = np.einsum("pc,pq,qc->c", x, inverse, x)
            slope -= ((x.T @ aimed) ** 2 / (g @ aimed) + CAUTION * reach / len(g)) / len(candidates.slopes)
        return value, slope

    w = np.full(c, min(limits.cells / c, 0.9 * limits.budget / cost.sum()))
    bound = -np.inf
    for _ in range(steps):
        value, slope = value_and_slope(w)
        corner = optimize.linprog(slope, A_ub=rows, b_ub=ends, bounds=(0, limits.repeats)).x
        bound = max(bound, value + slope @ (corner - w))
        if value - bound < 1e-3:
            break
        step = optimize.minimize_scalar(
            lambda s, w=w, corner=corner: value_and_slope(w + s * (corner - w))[0], bounds=(0, 1), method="bounded"
        ).x
        w = w + step * (corner - w)
    return bound


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_no_design_of_the_same_cost_can_be_much_narrower(share):
    candidates = problem(7, 7, parameters=5)
    limits = Limits(share * candidates.cost.max() * 14, 14, 2)
    found = search(candidates, limits)
    gap = candidates.score(found) - relaxed_bound(candidates, limits, steps=150)
    assert -1e-6 < gap < 2 * np.log(1.06)  # in half widths: 6 %


def test_limits_are_kept():
    candidates = problem(5, 5)
    limits = Limits(6 * candidates.cheapest() @ candidates.cost, 9, 2)
    counts = search(candidates, limits)
    assert counts @ candidates.cost <= limits.budget * (1 + 1e-9)
    assert counts.sum() <= 9
    assert counts.max() <= 2
    assert candidates.allowed(counts)
    used = counts > 0
    assert used.sum() >= enough(3)
    assert len(set(candidates.params[used])) >= 4
    assert len(set(candidates.tokens[used])) >= 4
