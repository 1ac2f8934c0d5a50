# SPDX-License-Identifier: Apache-2.0
"""Iso-FLOP analysis: the best size at each compute budget, read off the runs of that budget alone.

Approach 2 of Hoffmann et al. 2022: runs of equal compute and different size trace a valley of loss over log params; its
lowest point is N* of that budget, and a power law through the budgets' minima is N*(C). No surface is assumed, so it
checks one (`IsoFlop.against`). Intervals carry the noise within budgets through minima and power laws, see `valleys`.

Differs from the paper: a cubic is fitted beside the parabola. The valley of E + A/N^alpha + B/D^beta is steeper on the
side of the larger exponent, so on wide grids a parabola's minimum drifts: by 16 % in N* for sizes from 1/10 to 10 times
the best where alpha = 2 beta, where a cubic's drifts by half a percent. A cubic is not always closer: where sizes reach
ten times farther on one side, its own error (the quartic term) is as large. Sizes from 1/3 to 3 times need neither.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.reporting.wording import count, figure
from t5x_like.scaling.analysis.valleys import FORMS, Curve, PowerLaw, Valley, choose, fit_valleys, power_laws, sizes
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.laws.frontier import can_share, frontier
from t5x_like.scaling.pairs import Pair, pair
from t5x_like.scaling.uncertainty.intervals import interval

if TYPE_CHECKING:
    from t5x_like.scaling.fitting.fit import Fit

Array = np.ndarray

TOLERANCE = 0.1  # compute of one budget differs by at most 10 %; rounding to whole steps and widths gives a few
FEWEST_SIZES = 4
_DRAWN = ("draws", "samples", "spread")  # what results are made of, and JSON does without


@dataclass(frozen=True)
class Budget:
    """Runs of one compute: its geometric mean in FLOPs, their rows in the points, sizes, and a curve of each form.
    A form that has no more sizes than coefficients has None."""

    flops: float
    rows: list[int]
    sizes: list[float]
    curves: dict[str, Curve | None]


@dataclass(frozen=True)
class AgainstSurface:
    """Against a fitted surface: both exponents a, and at every budget N*, the surface's N*, and their ratio."""

    a: float | None
    a_interval: Pair | None
    surface_a: float
    surface_a_interval: Pair | None
    rows: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return dict(_json(asdict(self)))


@dataclass(frozen=True)
class IsoFlop:
    """The analysis; `laws` are {form: {"params", "tokens", "loss": power law}}, empty with fewer than three minima."""

    form: str  # the chosen one; `laws[form]` and the curves of that form are the result, the other is for comparison
    rule: str  # how it was chosen
    compute: str  # what the budgets are counted in, "flops" (the column) or "6 params tokens"
    tolerance: float  # the largest difference of log compute within a budget
    budgets: list[Budget]
    laws: dict[str, dict[str, PowerLaw]]
    left_out: list[dict[str, float]]  # {row, params, tokens, flops} of each run that belongs to no budget
    warnings: list[str]

    @property
    def minima(self) -> list[tuple[Budget, Curve]]:
        """The budgets with a minimum of the chosen form, and their curves."""
        return [(b, curve) for b in self.budgets if (curve := b.curves[self.form]) and not curve.problem]

    def against(self, fit: "Fit") -> AgainstSurface:
        """Compares with the compute-optimal sizes of a fitted surface; a law without any is a `UserError`.

        The surface is asked at C = 6 N* D* of each minimum, so that both divide the same product. `ratio` is the
        budget's N* over the surface's; it has no interval, as both come from the same runs.
        """
        if not can_share(fit.law):
            raise UserError(f"law {fit.law.name!r} does not say how to share compute between params and tokens")
        curves = [curve for _, curve in self.minima]
        own = np.array([(curve.params, curve.tokens) for curve in curves], float)
        flops = 6 * own.prod(1)
        best, draws = frontier(fit.law, fit.vector, flops), frontier(fit.law, fit.draws, flops)
        known = len(fit.draws) > 0
        rows = [
            {
                "flops": float(flops[i]),
                "params": curve.params,
                "params_interval": curve.intervals["params"],
                "surface_params": float(best.params[i]),
                "surface_params_interval": pair(*interval(draws.params[:, i])) if known else None,
                "ratio": float(own[i, 0] / best.params[i]),
            }
            for i, curve in enumerate(curves)
        ]
        law = self.laws[self.form].get("params")
        a, spread = (law.exponent, law.exponent_interval) if law else (None, None)
        return AgainstSurface(a, spread, float(best.a), pair(*interval(draws.a)) if known else None, rows)

    def to_json(self) -> dict[str, Any]:
        """Returns strict JSON: no arrays, null for what does not exist or is unbounded."""
        return dict(_json(asdict(self)))


def analyse(points: Any, *, tolerance: float = TOLERANCE, replicates: int = 2000, seed: int = 0) -> IsoFlop:
    """Finds the best size at each budget and the power laws through them.

    Args:
      points: anything that `points.read_points` takes. Its `flops` column counts the compute if every row has it,
        6 params tokens otherwise.
      tolerance: the largest difference of log compute within a budget; runs are joined by complete linkage.
      replicates, seed: of the bootstrap.

    Raises:
      UserError: no budget has four sizes, or none has a minimum between its smallest and its largest size.
    """
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise UserError(f"tolerance: {tolerance!r}; it must be a positive difference of log compute, such as .1")
    points = read_points(points)
    flops, compute, warnings = _compute(points)
    groups = _group(points, flops, tolerance)
    if not groups:
        raise UserError(
            f"{points.source}: no compute budget has runs of at least {FEWEST_SIZES} sizes (a budget is runs whose "
            f"{compute} differ by at most {100 * tolerance:.0f} %); this analysis needs several sizes at equal compute"
        )
    where = np.array([np.exp(np.log(flops[rows]).mean()) for rows in groups])
    valleys = {form: [Valley.over(points, rows, form) for rows in groups] for form in FORMS}
    form, rule = choose(valleys)
    rng = np.random.default_rng(seed)
    found = {name: fit_valleys(valleys[name], replicates, rng) for name in FORMS}
    few = f"a {form} needs runs of at least {FORMS[form] + 1} sizes"
    problems = [curve.problem if curve else few for curve in found[form][0]]
    missed = [f"{figure(at)} FLOPs has none: {why}" for at, why in zip(where, problems, strict=True) if why]
    if len(missed) == len(groups):
        raise UserError(f"{points.source}: no budget has a loss minimum between its sizes; {'; '.join(missed)}")
    laws = {name: power_laws(where, *fitted) for name, fitted in found.items()}
    budgets = [
        Budget(at, rows.tolist(), sizes(points.params[rows]), {name: fitted[0][i] for name, fitted in found.items()})
        for i, (at, rows) in enumerate(zip(where.tolist(), groups, strict=True))
    ]
    left_out = [
        {"row": int(i), "params": float(points.params[i]), "tokens": float(points.tokens[i]), "flops": float(flops[i])}
        for i in np.delete(np.arange(len(points)), np.concatenate(groups))
    ]
    warnings += [*_strays(left_out), *(f"The budget of {text}." for text in missed), *laws[form][1]]
    chosen = {name: law for name, (law, _) in laws.items()}
    return IsoFlop(form, rule, compute, tolerance, budgets, chosen, left_out, warnings)


def _compute(points: Points) -> tuple[Array, str, list[str]]:
    flops = points.columns.get("flops")
    if flops is not None and (np.isfinite(flops) & (flops > 0)).all():
        return flops, "flops", []
    note = "Some rows have no positive flops: budgets are counted as 6 params tokens in all rows."
    return points.compute, "6 params tokens", [] if flops is None else [note]


def _group(points: Points, flops: Array, tolerance: float) -> list[Array]:
    """Returns the rows of each budget, from small to large."""
    from scipy.cluster.hierarchy import fcluster, linkage  # half a second, which `import t5x_like` should not take

    logs = np.log(flops)
    labels = fcluster(linkage(logs[:, None], "complete"), tolerance, "distance") if len(logs) > 1 else np.ones(1)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups = [rows for rows in groups if len(sizes(points.params[rows])) >= FEWEST_SIZES]
    return sorted(groups, key=lambda rows: float(logs[rows].mean()))


def _strays(left_out: list[dict[str, float]]) -> list[str]:
    if not left_out:
        return []
    named = ", ".join(f"{count(run['params'])} params on {count(run['tokens'])} tokens" for run in left_out[:5])
    more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    runs = "1 run belongs" if len(left_out) == 1 else f"{len(left_out)} runs belong"
    return [f"{runs} to no budget of at least {FEWEST_SIZES} sizes: {named}{more}."]


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items() if key not in _DRAWN}
    if isinstance(value, list):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
