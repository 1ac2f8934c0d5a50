# SPDX-License-Identifier: Apache-2.0
"""Comparing two arms (families, attention kinds, optimizers): how much less compute B needs for A's loss, and where.

The *compute multiplier* at a loss is the compute that arm A needs for it over the compute that arm B needs: 1.3 says
that B is worth 1.3 times its compute. `compare` reads it off both arms' fitted compute-optimal frontiers, with the
bootstrap draws of both fits; `Comparison.paired`, which should agree, off cells that both arms ran, with hardly a law.

Losses are comparable only if both arms were scored on the same tokens with the same tokenizer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.interpolate import CubicSpline

from t5x_like.errors import UserError
from t5x_like.reporting.wording import figure
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.laws.frontier import can_share, frontier
from t5x_like.scaling.pairs import Pair, pair
from t5x_like.scaling.uncertainty.intervals import interval
from t5x_like.scaling.uncertainty.paired import SAME, Paired, paired

if TYPE_CHECKING:
    from t5x_like.scaling.fitting.fit import Fit

Array = np.ndarray
Where = Sequence[float] | None

ROWS = 9
BEYOND = 1e3  # frontiers are followed this far beyond the compute used; a loss not reached there has no compute
DIFFERENT = 0.1  # of log FLOPs per params and tokens: where the arms' compute is not counted alike
_NODES, _GRID, _ROUNDING = 97, 900, 1e-6


@dataclass(frozen=True)
class Row:
    """At one loss: compute of A and B in FLOPs, A's over B's and its 95 % interval; None where an arm never gets there.
    `extrapolated` where the loss is outside what both arms' compute reaches on their frontiers."""

    loss: float
    flops_a: float | None
    flops_b: float | None
    multiplier: float | None
    interval: Pair | None
    extrapolated: bool


@dataclass(frozen=True)
class Crossing:
    """Compute in FLOPs at which the frontiers cross, and its 95 % interval: null where that leaves the common range."""

    flops: float
    interval: Pair | None
    better_below: str
    better_above: str


@dataclass(frozen=True)
class Comparison:
    """Arm B against arm A."""

    names: tuple[str, str]
    rows: list[Row]  # multipliers, from high loss (little compute) to low
    crossings: list[Crossing]  # where the better arm changes within the compute that both arms used
    verdict: str  # the same in words
    overlap: tuple[float, float]  # the losses [low, high] that both arms reach with the compute they used
    paired: Paired | None  # from cells that both arms ran, or None
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns strict JSON: null for what does not exist or is unbounded."""
        return asdict(self)


def by_family(points: Points) -> dict[str, Points]:
    """Splits points by their `family` column, in order of appearance.
    Raises UserError: there is no such column, or it holds one family only."""
    families = points.columns.get("family", np.array([], str))
    names = list(dict.fromkeys(families.tolist()))
    if len(names) < 2:
        has = f"one family, {names[0]!r}" if names else "no column family"
        raise UserError(f"{points.source}: it has {has}; arms to compare need a column family with two names")
    return {name: points.take(families == name, f"This law is that of the runs of {name} alone.") for name in names}


def compare(
    a: "Fit", b: "Fit", *, losses: Where = None, flops: Where = None, names: tuple[str, str] = ("A", "B"), seed: int = 0
) -> Comparison:
    """Compares arm B with arm A by their fits; the laws may differ.

    Args:
      losses: where to give the multiplier; by default evenly over what both arms reach.
      flops: or at the losses that A's frontier has at these computes.
      seed: of the shuffle of draws before they are paired. Only arms of the same cells and seeds, row by row, fitted
        with one bootstrap seed, keep their draws in pairs: their shared noise cancels. Without shared seeds that would
        make arms lean the same way by chance.

    Raises:
      UserError: a law without a compute-optimal frontier, or no loss that both arms reach, and none asked for.
    """
    given = {name: list(values) for name, values in (("losses", losses), ("flops", flops)) if values is not None}
    if len(given) > 1:
        raise UserError("losses, flops: give one of them; either says where the multiplier is wanted")
    for name, values in given.items():
        if not (np.isfinite(values).all() and np.greater(values, 0).all()):
            raise UserError(f"{name}: {values}; they must be positive numbers")
    compute = np.concatenate([a.points.compute, b.points.compute])
    grid = np.linspace(np.log(compute.min() / BEYOND), np.log(compute.max() * BEYOND), _GRID)
    order = np.arange(len(b.draws))
    if not _drawn_together(a, b):
        order = np.random.default_rng(seed).permutation(order)
    arms = _Arm.of(a, names[0], a.draws, grid), _Arm.of(b, names[1], b.draws[order], grid)
    low, high = max(arm.reach[0] for arm in arms), min(arm.reach[1] for arm in arms)
    if flops is not None:
        ends = np.exp(grid[[0, -1]])
        if not (ends[0] <= min(flops) and max(flops) <= ends[1]):
            raise UserError(f"flops: {list(flops)}; these runs allow {figure(ends[0])} to {figure(ends[1])}")
        losses = np.exp(np.interp(np.log(np.asarray(flops, float)), grid, arms[0].log_loss[0])).tolist()
    elif losses is None:
        if not low < high:
            told = " and ".join(arm.described() for arm in arms)
            raise UserError(
                f"{told}: no loss is common to both, so their compute cannot be compared without extrapolation; train "
                "the weaker arm further, or name the losses"
            )
        losses = np.geomspace(high, low, ROWS).tolist()
    rows = _rows(*arms, np.asarray(losses, float), (low, high))
    warnings = _differences(a.points, b.points)
    if not (len(a.draws) and len(b.draws)):
        warnings.append("A fit has no bootstrap replicates, so multipliers and crossings have no intervals.")
    if outside := sum(row.extrapolated for row in rows):
        warnings.append(
            f"{outside} of {len(rows)} losses lie outside {low:.4g} to {high:.4g}, which both arms reach with the "
            "compute used: the multipliers there extrapolate a fit."
        )
    return Comparison(names, rows, *_crossings(*arms), (low, high), paired(a, b, seed=seed), warnings)


@dataclass(frozen=True)
class _Arm:
    """A compute-optimal frontier on a grid of log compute [G]: log losses [1 + R, G], the estimate first."""

    name: str
    grid: Array
    log_loss: Array
    used: tuple[float, float]  # log compute of the smallest and the largest run

    @classmethod
    def of(cls, fit: "Fit", name: str, draws: Array, grid: Array) -> "_Arm":
        if not can_share(fit.law):
            raise UserError(f"{name}: law {fit.law.name!r} does not say how to share compute, so it has no frontier")
        nodes = np.linspace(grid[0], grid[-1], _NODES)
        with np.errstate(all="ignore"):
            coarse = np.log(frontier(fit.law, np.concatenate([fit.vector[None], draws]), np.exp(nodes)).loss)
        exists = np.isfinite(coarse).all(1)
        if not exists[0]:
            raise UserError(f"{name}: its fit has no compute-optimal size (a coefficient is at zero)")
        # Splines, because a law without a closed form is searched at every node.
        log_loss = np.full((len(coarse), len(grid)), np.nan)
        log_loss[exists] = CubicSpline(nodes, coarse[exists], axis=1)(grid)
        compute = np.log(fit.points.compute)
        return cls(name, grid, log_loss, (float(compute.min()), float(compute.max())))

    @property
    def reach(self) -> list[float]:
        """The lowest and the highest loss on the frontier between the smallest and the largest compute used."""
        return list(np.exp(np.interp(self.used, self.grid, self.log_loss[0])).tolist()[::-1])

    def flops(self, losses: Array) -> Array:
        """Returns the compute [1 + R, n] at which the frontiers have these losses [n]; 0 or inf where they never do."""
        wanted = -np.log(losses)
        found = np.array([np.interp(wanted, -curve, self.grid, left=-np.inf, right=np.inf) for curve in self.log_loss])
        with np.errstate(over="ignore"):
            return np.exp(np.where(np.isfinite(self.log_loss[:, :1]), found, np.nan))

    def described(self) -> str:
        low, high = self.reach
        return f"{self.name} reaches losses of {low:.4g} to {high:.4g} with the compute it used"


def _drawn_together(a: "Fit", b: "Fit") -> bool:
    """Whether draws of equal index belong together: the same cells and seeds row by row, and the same bootstrap seed.
    Then a wild bootstrap flips both arms' residuals of a cell alike, and what a seed does to both arms cancels."""
    if len(a.points) != len(b.points) or len(a.draws) != len(b.draws) or a.seed != b.seed:
        return False
    seeds = [fit.points.columns.get("seed", np.array([np.nan])) for fit in (a, b)]
    sizes = [np.log([fit.points.params, fit.points.tokens]) for fit in (a, b)]
    return np.array_equal(seeds[0], seeds[1]) and bool((np.abs(sizes[0] - sizes[1]) < SAME).all())


def _rows(a: _Arm, b: _Arm, losses: Array, overlap: tuple[float, float]) -> list[Row]:
    draws = min(len(a.log_loss), len(b.log_loss))
    outside = (losses < overlap[0] * (1 - _ROUNDING)) | (losses > overlap[1] * (1 + _ROUNDING))
    found = np.array([arm.flops(losses)[:draws] for arm in (a, b)])
    with np.errstate(all="ignore"):
        multiplier = found[0] / found[1]
    rows = []
    for i, loss in enumerate(losses.tolist()):
        best = (*found[:, 0, i], multiplier[0, i])
        at_a, at_b, worth = (float(value) if 0 < value < np.inf else None for value in best)
        spread = pair(*interval(multiplier[1:, i])) if draws > 1 else None
        rows.append(Row(loss, at_a, at_b, worth, spread, bool(outside[i])))
    return rows


def _crossings(a: _Arm, b: _Arm) -> tuple[list[Crossing], str]:
    """Returns the crossings within the compute that both arms used, and a sentence."""
    low, high = max(a.used[0], b.used[0]), min(a.used[1], b.used[1])
    if not low < high:
        return [], f"{a.name} and {b.name} used no common compute, so a crossing of their frontiers is not looked for."
    x, names = np.linspace(low, high, _GRID), (a.name, b.name)
    curves = zip(a.log_loss, b.log_loss, strict=False)  # as many as both have
    worse = np.array([np.interp(x, a.grid, p) - np.interp(x, b.grid, q) for p, q in curves])
    ahead = np.select([worse > 0, worse <= 0], [1, 0], -1)  # index of the better arm, -1 without a frontier
    between = f"between {figure(np.exp(low))} and {figure(np.exp(high))} FLOPs, which both used"
    changes = np.flatnonzero(np.diff(ahead[0]))
    if not changes.size:
        better, held = names[ahead[0, 0]], (ahead[1:] == ahead[0, 0]).all(1)
        same = f", in {held.mean():.0%} of the replicates too" if len(held) else ""
        return [], f"There is no crossing {between}: {better} is better throughout{same}."
    crossings = []
    for i in changes:
        at = float(np.exp(x[i] + (x[1] - x[0]) * worse[0, i] / (worse[0, i] - worse[0, i + 1])))
        spread = _crossing_interval(x, ahead) if len(ahead) > 1 and len(changes) == 1 else None
        crossings.append(Crossing(at, spread, names[ahead[0, i]], names[ahead[0, i + 1]]))
    told = (f"{c.better_below} is better below {figure(c.flops)} FLOPs, {c.better_above} above" for c in crossings)
    return crossings, f"{', '.join(told)} ({between})."


def _crossing_interval(x: Array, ahead: Array) -> Pair:
    """The interval of a single crossing, from the better arm at log compute x [G], [1 + R, G].
    A replicate whose better arm never changes crosses below the range, or above it."""
    (start, *_, end), drawn = ahead[0], ahead[1:]
    first = x[np.argmax(drawn == end, 1)]
    where = np.select([(drawn == end).all(1), (drawn == start).all(1)], [-np.inf, np.inf], first)
    where = np.where((drawn[:, 0] == end) & (drawn[:, -1] != end) | (drawn[:, 0] < 0), np.nan, where)
    return [None if bound is None else float(np.exp(bound)) for bound in pair(*interval(where))]


def _differences(a: Points, b: Points) -> list[str]:
    """What makes a comparison of losses or sizes doubtful."""
    notes = []
    if a.params_column != b.params_column:
        notes.append(f"params counts {a.params_column} in one arm and {b.params_column} in the other.")
    took = [float(np.mean(points.columns.get("flops", np.nan) / points.compute)) for points in (a, b)]
    if abs(np.log(took[0] / took[1])) > DIFFERENT:
        notes.append(
            f"Compute is counted as 6 params tokens here; the runs took {figure(took[0])} and {figure(took[1])} times "
            "that. A sweep with params_column=params_compute compares what they took."
        )
    if a.fingerprints and b.fingerprints and set(a.fingerprints) != set(b.fingerprints):
        notes.append("The arms were trained on different data: their losses may not be comparable.")
    return notes
