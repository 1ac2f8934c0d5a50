# SPDX-License-Identifier: Apache-2.0
"""Which law predicts runs it has not seen: no form wins everywhere, so every law is tried on the points at hand.

Two tests. *Rolling origin*: fit all runs below a compute, predict all above it, for three such origins; that is what
planning a larger run asks. *Leave-one-out*: predict each run from all the others (from 48 groups of points where there
are more), which asks whether the form follows the surface. Both count the root mean square of log predicted - log
measured. Laws are ranked by the geometric mean of the two.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.solver import Minimum, find_minimum, rms
from t5x_like.scaling.fitting.surface import Surface, surface_of
from t5x_like.scaling.fitting.weights import own_delta
from t5x_like.scaling.laws.catalogue import LAWS, OVERTRAINING, get_law
from t5x_like.scaling.laws.frontier import can_share
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.uncertainty.bootstrap import refit

Array = np.ndarray
Progress = Callable[[int, int], None] | None

ORIGINS = (0.5, 0.65, 0.8)  # shares of the points, by compute, that are fitted
MOST_FOLDS = 48
_STARTS = 3  # descents of an origin's fit, from the best cells of the grid for its own points


def entrants(points: Points) -> list[Law]:
    """Returns the laws to try: those of params and tokens, and of unique_tokens where some of them were repeated."""
    laws = [law for law in LAWS.values() if can_share(law) and set(law.variables) <= set(points.variables)]
    return [law for law in laws if law is not OVERTRAINING]  # which is another in other letters


def leaderboard(
    points: Points, laws: Sequence[str | Law] | None = None, delta: float | str = 1e-3, progress: Progress = None
) -> dict[str, Any]:
    """Fits every law, `entrants` by default, and ranks them by their error on runs left out.

    `delta` is the Huber threshold; "auto" takes each law's own, from its residuals. `progress` is called with (laws
    done, all laws). Returns `rows`, best first: law, formula, parameters (how many), values, residual_rms,
    leave_one_out_rms, rolling_origin_rms (None where no origin leaves a design that determines the law), origins,
    score; `best`: the first row's law, or None; `refused`: {law: why}.
    """
    chosen = [get_law(law) for law in laws] if laws is not None else entrants(points)
    rows, refused = [], {}
    for done, law in enumerate(chosen):
        try:
            rows.append(_row(law, points, delta))
        except UserError as error:
            refused[law.name] = str(error)
        if progress:
            progress(done + 1, len(chosen))
    rows.sort(key=lambda row: np.inf if row["score"] is None else row["score"])
    return {"rows": rows, "best": rows[0]["law"] if rows else None, "refused": refused}


def _row(law: Law, points: Points, threshold: float | str) -> dict[str, Any]:
    surface = surface_of(law, points)
    target = surface.response(points.measured(law.target))
    delta = own_delta(surface, target) if isinstance(threshold, str) else threshold
    fit = Minimum(surface, target, find_minimum(surface, target, delta)[0], delta)
    left_out = rms(leave_out(surface, target, fit.theta, delta))
    origins = list(_origins(law, points, surface, target, delta))
    rolling = rms(np.array([origin["rms"] for origin in origins])) if origins else None  # each counts once
    return {
        "law": law.name,
        "formula": law.formula,
        "parameters": len(law.parameters),
        "values": fit.parameters,
        "residual_rms": rms(fit.misses),
        "leave_one_out_rms": left_out,
        "rolling_origin_rms": rolling,
        "origins": origins,
        "score": None if rolling is None else float(np.sqrt(left_out * rolling)),
    }


def leave_out(surface: Surface, target: Array, theta: Array, delta: float) -> Array:
    """Returns errors [n] of predictions of points, or of groups of them, by fits without them."""
    groups = folds(len(target))
    weights = 1.0 - (groups == np.arange(groups.max() + 1)[:, None])
    targets, starts = (np.tile(values, (len(weights), 1)) for values in (target, theta))
    refitted = refit(surface, targets, starts, delta, weights)
    return (surface.predict(refitted) - target)[groups, np.arange(len(target))]


def folds(n: int) -> Array:
    """Returns the group of each of n points: one of its own, or one of 48, spread at random."""
    if n <= MOST_FOLDS:
        return np.arange(n)
    return np.random.default_rng(0).permutation(n) % MOST_FOLDS


def _origins(law: Law, points: Points, surface: Surface, target: Array, delta: float) -> Iterator[dict[str, Any]]:
    """Fits shares of the points, the smallest in compute, and predicts the others, where a share determines the law."""
    compute = points.compute
    for share in ORIGINS:
        edge = np.sort(compute)[max(0, round(share * len(points)) - 1)]
        inside = compute <= edge * (1 + 1e-9)  # points of equal compute stay together
        if inside.all():
            continue
        try:
            surface_of(law, points.take(inside))
        except UserError:
            continue
        theta, _, _ = find_minimum(surface, target, delta, inside.astype(float), starts=_STARTS)
        yield {
            "trained_below_flops": float(edge),
            "compute_ratio": float(compute.max() / edge),
            "points": int((~inside).sum()),
            "rms": rms((surface.predict(theta[None])[0] - target)[~inside]),
        }
