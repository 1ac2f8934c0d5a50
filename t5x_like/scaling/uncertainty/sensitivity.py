# SPDX-License-Identifier: Apache-2.0
"""What a fit hangs on: the Huber threshold, the window of compute that is fitted, and single points."""

from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.fitting.solver import Minimum, find_minimum, rms
from t5x_like.scaling.fitting.surface import surface_of
from t5x_like.scaling.fitting.weights import own_delta
from t5x_like.scaling.laws import frontier
from t5x_like.scaling.uncertainty.bootstrap import LEAST_SQUARES, refit
from t5x_like.scaling.uncertainty.holdout import held_out

Array = np.ndarray

THRESHOLDS = (1e-4, 1e-3, 1e-2)
WINDOWS = (0.1, 0.2, 0.3, 0.4, 0.5)  # shares of the points, the smallest in compute, that are left out


def by_threshold(fit: Fit) -> list[dict[str, Any]]:
    """Fits again with other Huber thresholds, down to close to least absolute deviations and up to least squares.

    Returns rows of setting, huber_delta (None for least squares), points, residual_rms and parameters, in the order of
    the threshold; `used` marks the fit's own.
    """
    own = own_delta(fit.surface, fit.target)
    deltas = sorted({*THRESHOLDS, own, fit.huber_delta, LEAST_SQUARES})
    rows = []
    for delta in deltas:
        theta = fit.theta if delta == fit.huber_delta else find_minimum(fit.surface, fit.target, delta)[0]
        name = "least squares" if delta >= LEAST_SQUARES else f"delta {delta:.2g}"
        name += ", from the residuals" if delta == own else ""
        row = _row(fit, name, theta, np.ones(len(fit.points), bool))
        rows.append({**row, "huber_delta": None if delta >= LEAST_SQUARES else delta, "used": delta == fit.huber_delta})
    return rows


def by_window(fit: Fit) -> list[dict[str, Any]]:
    """Fits again without the smallest runs, a tenth of the points at a time, and without those held out as largest.
    Returns rows of setting, points, residual_rms and parameters (None where the rest cannot determine the law)."""
    compute = fit.points.compute
    windows = [("all points", np.ones(len(compute), bool)), ("without the largest", ~held_out(fit.points))]
    for share in WINDOWS:
        edge = np.sort(compute)[round(share * len(compute))]
        windows.append((f"without the smallest {share:.0%}".replace("%", " %"), compute >= edge * (1 - 1e-9)))
    rows = []
    for name, inside in windows:
        try:
            surface_of(fit.law, fit.points.take(inside))
        except UserError as error:
            rows.append({"setting": name, "points": int(inside.sum()), "parameters": None, "reason": str(error)})
            continue
        theta, _, _ = find_minimum(fit.surface, fit.target, fit.huber_delta, inside.astype(float), starts=3)
        rows.append(_row(fit, name, theta, inside))
    return rows


def _row(fit: Fit, name: str, theta: Array, inside: Array) -> dict[str, Any]:
    return {
        "setting": name,
        "points": int(inside.sum()),
        "residual_rms": rms(fit.surface.misses(theta, fit.target)[inside]),
        "parameters": Minimum(fit.surface, fit.target, theta, fit.huber_delta).parameters,
    }


def influence(fit: Fit) -> dict[str, Any]:
    """Leaves each point out in turn, and says how far that moves what is usually asked of a fit.

    Returns `quantities`: names; `rows`, a point each, in the order of the points: params, tokens, loss, run, residual,
    and `shifts`: {quantity: estimate without the point minus estimate, over the standard deviation of all such shifts
    times sqrt(n), the jackknife's standard error}; `largest`: the greatest of them in size, and `moves`: of what.
    """
    asked = frontier.standard(fit.law, fit.points.variables)
    n = len(fit.points)
    weights = 1.0 - np.eye(n)
    theta = refit(fit.surface, np.tile(fit.target, (n, 1)), np.tile(fit.theta, (n, 1)), fit.huber_delta, weights)
    with np.errstate(all="ignore"):
        shifts = asked.of(fit.surface.natural(theta)) - asked.of(fit.vector[None])
        error = np.sqrt((n - 1) / n * ((shifts - shifts.mean(0)) ** 2).sum(0))
        shares = np.nan_to_num(shifts / np.where(error > 0, error, np.inf))
    at, most = fit.points, np.abs(shares).argmax(1)
    runs = at.columns.get("run", np.full(n, ""))
    columns = {"params": at.params, "tokens": at.tokens, "loss": at.loss, "residual": fit.residuals}
    columns["largest"] = shares[np.arange(n), most]
    rows = [
        {
            "run": str(runs[i]),
            **{name: float(column[i]) for name, column in columns.items()},
            "shifts": dict(zip(asked.names, map(float, shares[i]), strict=True)),
            "moves": asked.names[most[i]],
        }
        for i in range(n)
    ]
    return {"quantities": list(asked.names), "rows": rows}
