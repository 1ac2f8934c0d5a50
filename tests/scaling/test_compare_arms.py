# SPDX-License-Identifier: Apache-2.0
"""Comparisons of synthetic arms whose compute multiplier, or crossing, is known exactly.

L_B(N, D) = L_A(N sqrt(m), D sqrt(m)) needs exactly m times less compute at every loss, on the frontier and off it.
"""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import optimize

from t5x_like.errors import UserError
from t5x_like.scaling.analysis.compare import by_family, compare
from t5x_like.scaling.fitting.fit import fit_scaling_law
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.laws.catalogue import LAWS
from t5x_like.scaling.uncertainty.paired import paired

LAW = LAWS["chinchilla"]
TRUTH = np.array([3.0, 20.0, 800.0, 0.34, 0.40])  # E, A, B, alpha, beta
SIZES, TOKENS = np.geomspace(5e3, 5e5, 4), np.geomspace(2.5e5, 4e6, 4)


def loss_at(vector, params, tokens):
    E, A, B, alpha, beta = np.moveaxis(np.asarray(vector), -1, 0)
    return E + A / params**alpha + B / tokens**beta


def worth(vector, multiplier):
    """The surface that reaches every loss with `multiplier` times less compute."""
    E, A, B, alpha, beta = vector
    return np.array([E, A * multiplier ** (-alpha / 2), B * multiplier ** (-beta / 2), alpha, beta])


def cells(vector, seeds=1, log_noise=0.0):
    params, tokens, seed = (axis.ravel() for axis in np.meshgrid(SIZES, TOKENS, np.arange(seeds), indexing="ij"))
    loss = loss_at(vector, params, tokens) * np.exp(log_noise)
    return read_points({"params": params, "tokens": tokens, "loss": loss, "seed": seed.astype(float)})


def linear_fit(truth, points, noise, signs, seed=0):
    """A stand-in for `Fit` that is cheap to simulate: one Gauss-Newton step from the truth, and a wild bootstrap of it.

    The step is in E, log A, log B, alpha, beta; signs [R, n] multiply HC3 residuals.
    """

    def at(steps):
        return np.where([False, True, True, False, False], truth * np.exp(steps), truth + steps)

    moved = np.log(loss_at(at(1e-6 * np.eye(5))[:, None], points.params, points.tokens))
    jacobian = ((moved - np.log(loss_at(truth, points.params, points.tokens))) / 1e-6).T
    solve = np.linalg.pinv(jacobian)
    step = solve @ noise
    residuals = (noise - jacobian @ step) / (1 - np.einsum("np,pn->n", jacobian, solve))
    return SimpleNamespace(
        law=LAW, points=points, vector=at(step), draws=at(step + (signs * residuals) @ solve.T), seed=seed
    )


def exact(truth, points=None):
    return SimpleNamespace(law=LAW, points=points or cells(truth), vector=truth, draws=np.empty((0, 5)), seed=0)


def best_loss(vector, flops):
    """The frontier by numerical minimisation."""
    found = optimize.minimize_scalar(
        lambda x: float(loss_at(vector, np.exp(x), flops / 6 / np.exp(x))),
        bounds=(0, np.log(flops / 6)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return found.fun


@pytest.mark.parametrize("multiplier", [1.3, 0.6])
def test_exact_surfaces_give_the_exact_multiplier(multiplier):
    result = compare(exact(TRUTH), exact(worth(TRUTH, multiplier)))
    assert [row.multiplier for row in result.rows] == pytest.approx([multiplier] * len(result.rows), rel=1e-5)
    assert not any(row.extrapolated for row in result.rows)
    assert result.rows[0].interval is None
    assert any("no bootstrap replicates" in text for text in result.warnings)
    assert result.paired.multiplier == pytest.approx(multiplier, rel=1e-3)
    assert result.crossings == []
    assert f"{'B' if multiplier > 1 else 'A'} is better throughout" in result.verdict
    losses = [row.loss for row in result.rows]
    assert (losses[-1], losses[0]) == pytest.approx(result.overlap)
    for row in result.rows[::4]:
        assert best_loss(TRUTH, row.flops_a) == pytest.approx(row.loss, rel=1e-6)
        assert best_loss(worth(TRUTH, multiplier), row.flops_b) == pytest.approx(row.loss, rel=1e-6)


def test_the_overlap_is_what_both_arms_reach():
    a, b = cells(TRUTH), cells(worth(TRUTH, 2.0))
    result = compare(exact(TRUTH, a), exact(worth(TRUTH, 2.0), b))
    assert result.overlap[0] == pytest.approx(best_loss(TRUTH, a.compute.max()), rel=1e-6)
    assert result.overlap[1] == pytest.approx(best_loss(worth(TRUTH, 2.0), b.compute.min()), rel=1e-6)


def test_rows_at_given_compute_or_loss_and_what_lies_outside_is_said():
    a, b = exact(TRUTH), exact(worth(TRUTH, 1.3))
    at = compare(a, b, flops=[1e10, 1e12, 1e15])
    assert [row.flops_a for row in at.rows] == pytest.approx([1e10, 1e12, 1e15], rel=1e-4)
    assert [row.flops_b for row in at.rows] == pytest.approx([1e10 / 1.3, 1e12 / 1.3, 1e15 / 1.3], rel=1e-4)
    assert [row.extrapolated for row in at.rows] == [False, False, True]
    assert any("1 of 3 losses lie outside" in text for text in at.warnings)
    never = compare(a, b, losses=[2.9]).rows[0]  # below E
    assert (never.flops_a, never.flops_b, never.multiplier, never.extrapolated) == (None, None, None, True)
    with pytest.raises(UserError, match="give one of them"):
        compare(a, b, losses=[4.0], flops=[1e12])
    with pytest.raises(UserError, match="these runs allow"):
        compare(a, b, flops=[1e30])
    with pytest.raises(UserError, match="positive"):
        compare(a, b, losses=[-1.0])


def test_arms_without_a_common_loss_are_refused():
    apart = TRUTH + np.array([9.0, 0, 0, 0, 0])
    with pytest.raises(UserError, match="no loss is common to both"):
        compare(exact(TRUTH), exact(apart))


def crossing_arm(flops, higher=0.3):
    """An arm with a higher floor that is ahead below these FLOPs; A and B shrink alike, so its best sizes are A's."""
    shrunk = 1 - higher / (best_loss(TRUTH, flops) - TRUTH[0])
    return TRUTH * np.array([1, shrunk, shrunk, 1, 1]) + np.array([higher, 0, 0, 0, 0])


def test_the_crossing_is_where_the_frontiers_meet():
    expected, compute = 4e11, cells(TRUTH).compute
    assert compute.min() < expected < compute.max()
    result = compare(exact(TRUTH), exact(crossing_arm(expected)), names=("old", "new"))
    (crossing,) = result.crossings
    assert crossing.flops == pytest.approx(expected, rel=1e-3)
    assert (crossing.better_below, crossing.better_above, crossing.interval) == ("new", "old", None)
    assert "new is better below" in result.verdict
    multipliers = [row.multiplier for row in result.rows]
    assert multipliers[0] > 1 > multipliers[-1]


@pytest.mark.parametrize(("elsewhere", "interval"), [(1e8, [None, 4e11]), (1e15, [4e11, None])])
def test_replicates_that_cross_outside_the_range_leave_that_side_open(elsewhere, interval):
    a, b = exact(TRUTH), exact(crossing_arm(4e11))
    a.draws = np.stack([TRUTH] * 100)
    b.draws = np.stack([crossing_arm(4e11)] * 90 + [crossing_arm(elsewhere)] * 10)
    found = compare(a, b).crossings[0].interval
    assert [bound is None for bound in found] == [bound is None for bound in interval]
    assert [bound for bound in found if bound] == pytest.approx([4e11], rel=0.02)


@pytest.mark.parametrize("shared", [0.0, 0.004], ids=["own noise", "shared noise"])
def test_intervals_cover_the_multiplier_and_the_crossing(shared):
    """Noise that a seed gives both arms cancels where draws are paired, and widens the interval where they are not."""
    rng, covered, widths = np.random.default_rng(0), [], []
    own = 0.001 if shared else 0.002
    better, meeting, n = worth(TRUTH, 1.3), crossing_arm(4e11), 32
    for _ in range(80):
        common = shared * rng.normal(size=n)
        signs = rng.choice([-1.0, 1.0], size=(150, n))
        noise = [common + own * rng.normal(size=n) for _ in range(2)]
        a, b, c = (
            linear_fit(surface, cells(surface, 2, errors), errors, signs)
            for surface, errors in ((TRUTH, noise[0]), (better, noise[1]), (meeting, noise[1]))
        )
        result, crossing = compare(a, b, losses=[5.0]), compare(a, c, losses=[4.0]).crossings[0]
        (middle,) = result.rows
        pairs = result.paired.multiplier_interval
        intervals = ((middle.interval, 1.3), (pairs, 1.3), (crossing.interval, 4e11))
        covered.append([(low or -np.inf) <= value <= (high or np.inf) for (low, high), value in intervals])
        b.seed = 1
        loose = compare(a, b, losses=[5.0]).rows[0].interval
        widths.append([np.subtract(*middle.interval[::-1]), np.subtract(*loose[::-1]), np.subtract(*pairs[::-1])])
    assert np.mean(covered, 0).min() >= 0.89, np.mean(covered, 0)
    paired_draws, shuffled, cellwise = np.median(widths, 0)
    if shared:
        assert paired_draws < 0.5 * shuffled
    else:
        assert paired_draws == pytest.approx(shuffled, rel=0.15)
    assert cellwise < paired_draws


def test_fits_are_compared_end_to_end():
    rng = np.random.default_rng(1)
    fits = [
        fit_scaling_law(cells(surface, 2, 0.001 * rng.normal(size=32)), bootstrap=100)
        for surface in (TRUTH, worth(TRUTH, 1.3))
    ]
    result = compare(*fits, names=("dense", "sparse"))
    middle = result.rows[len(result.rows) // 2]
    assert middle.interval[0] < 1.3 < middle.interval[1]
    assert result.paired.scatter == "seeds"
    assert (result.paired.pairs, result.paired.cells) == (32, 16)
    read = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert read["names"] == ["dense", "sparse"]
    assert len(read["rows"]) == len(result.rows)


def test_the_paired_ratio_is_a_t_interval_of_pairs():
    rng = np.random.default_rng(2)
    a, b = cells(TRUTH, 1, 0.01 * rng.normal(size=16)), cells(worth(TRUTH, 1.3), 1, 0.01 * rng.normal(size=16))
    order = rng.permutation(16)[:12]
    b = b.take(order)  # only twelve cells, in another order
    result = paired(exact(TRUTH, a), exact(worth(TRUTH, 1.3), b))
    ratios = np.log(a.loss[order] / b.loss)
    assert (result.pairs, result.cells, result.scatter) == (12, 12, "cells")
    assert result.log_ratio == pytest.approx(ratios.mean())
    half = 2.2009851600916 * ratios.std(ddof=1) / np.sqrt(12)  # t table, 11 degrees of freedom
    assert result.interval == pytest.approx([ratios.mean() - half, ratios.mean() + half])
    step = 1e-4
    slopes = [
        -np.log(loss_at(v, p * np.exp(step), t * np.exp(step)) / loss_at(v, p, t)) / (2 * step)
        for v in (TRUTH, worth(TRUTH, 1.3))
        for p, t in zip(a.params[order], a.tokens[order], strict=True)
    ]
    assert result.slope == pytest.approx(np.mean(slopes), rel=1e-3)
    assert result.multiplier == pytest.approx(np.exp(result.log_ratio / result.slope))
    assert paired(exact(TRUTH, a), exact(TRUTH, b.take(np.arange(2)))) is None


def test_without_seeds_the_runs_of_a_cell_are_averaged():
    a = cells(TRUTH, 3, 0.01 * np.random.default_rng(3).normal(size=48))
    bare = Points(a.params, a.tokens, a.loss)
    b = cells(worth(TRUTH, 1.3))
    result = paired(exact(TRUTH, bare), exact(TRUTH, b))
    means = np.log(a.loss).reshape(16, 3).mean(1)
    assert result.pairs == 16
    assert result.log_ratio == pytest.approx((means - np.log(b.loss)).mean())


def test_families_are_split():
    points = cells(TRUTH)
    families = np.array(["gpt", "t5"] * 8)
    arms = by_family(Points(points.params, points.tokens, points.loss, columns={"family": families}))
    assert {name: len(arm) for name, arm in arms.items()} == {"gpt": 8, "t5": 8}
    assert set(arms["t5"].params) == set(points.params[1::2])
    assert [arms[name].warnings for name in arms] == [
        (f"This law is that of the runs of {name} alone.",) for name in arms
    ]
    with pytest.raises(UserError, match="no column family"):
        by_family(points)
    with pytest.raises(UserError, match="one family, 'gpt'"):
        by_family(Points(points.params, points.tokens, points.loss, columns={"family": np.array(["gpt"] * 16)}))


def test_different_data_and_different_counts_are_warned_of():
    a, b = cells(TRUTH), cells(TRUTH)
    a = dataclasses.replace(a, fingerprints=("x",), params_column="params_total")
    b = dataclasses.replace(b, fingerprints=("y",))
    warnings = compare(exact(TRUTH, a), exact(TRUTH, b)).warnings
    assert any("different data" in text for text in warnings)
    assert any("params_total in one arm and params in the other" in text for text in warnings)


@pytest.mark.parametrize(("share", "told"), [(1.0, False), (0.5, True)])
def test_compute_that_the_arms_count_differently_is_warned_of(share, told):
    """6 params tokens is no arm's compute where only half of its params meet a token."""
    a, b = cells(TRUTH), cells(TRUTH)
    a = dataclasses.replace(a, columns={**a.columns, "flops": 6 * a.params * a.tokens})
    b = dataclasses.replace(b, columns={**b.columns, "flops": 6 * b.params * b.tokens * share})
    warnings = compare(exact(TRUTH, a), exact(TRUTH, b)).warnings
    assert any("the runs took 1.00 and 0.500 times that" in text for text in warnings) is told
