# SPDX-License-Identifier: Apache-2.0
"""Two arms on the same cells: the mean log ratio of their losses, paired by (params, tokens, seed), without a law.

A seed that fixes the order of the data and the initial values moves both arms' losses alike, and cancels in a pair.
Only the conversion into compute needs the fits: along params and tokens growing alike, a loss lower by a share d is
worth d / (-d log loss / d log compute) in log compute. The slope is the mean of both arms' at the same cell: each arm's
own would be wrong by the bend of the curve between the two losses, their mean is not (the trapezoidal rule).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.pairs import Pair, pair
from t5x_like.scaling.uncertainty.intervals import interval

if TYPE_CHECKING:
    from t5x_like.scaling.fitting.fit import Fit

Array = np.ndarray

SAME = 0.01  # params or tokens this close in logarithm are one cell: shapes and whole steps round a little
FEWEST_PAIRS = 3
_STEP = 1e-3  # in log compute, of the central difference for a slope
_SAMPLES = 4000


@dataclass(frozen=True)
class Paired:
    """Arm B against arm A on the cells that both ran.

    `scatter` is what the interval measures: "seeds", the scatter of pairs within cells, where there are two pairs a
    cell on average; or "cells", the scatter of all pairs, to which true differences between cells add.
    """

    pairs: int  # of runs
    cells: int  # distinct (params, tokens) among them
    log_ratio: float  # mean of log(loss of A / loss of B); above 0, B is better
    interval: Pair  # its 95 % t interval
    scatter: str
    slope: float  # -d log loss / d log compute, the mean over the pairs and both fits
    multiplier: float | None  # exp(log_ratio / slope); None where the fitted loss does not fall
    multiplier_interval: Pair | None  # 95 %, with the slope's uncertainty where the fits have draws


def paired(a: "Fit", b: "Fit", *, seed: int = 0) -> Paired | None:
    """Returns the paired comparison, or None with fewer than three pairs.

    Runs of one arm that agree in params, tokens and seed are averaged first (in log loss). Without seeds in both arms,
    all runs of a cell are.
    """
    ratio, cell, rows = _pairs(a.points, b.points)
    if len(ratio) < FEWEST_PAIRS:
        return None
    _, label, pairs = np.unique(cell, return_inverse=True, return_counts=True)
    mean, n, cells = float(ratio.mean()), len(ratio), len(pairs)
    within = n >= 2 * cells
    centre = (np.bincount(label, ratio) / pairs)[label] if within else mean
    freedom = n - cells if within else n - 1
    error = float(np.sqrt(((ratio - centre) ** 2).sum() / freedom / n))
    half = float(special.stdtrit(freedom, 0.975)) * error
    slope = float(np.mean([_slopes(fit, a.points, rows, fit.vector[None]) for fit in (a, b)]))
    multiplier, spread = None, None
    if slope > 0:
        multiplier = float(np.exp(mean / slope))
        rng = np.random.default_rng(seed)
        slopes = np.full(_SAMPLES, slope)
        if len(a.draws) and len(b.draws):
            draws = [_slopes(fit, a.points, rows, fit.draws) for fit in (a, b)]
            slopes = np.mean([rng.choice(values, _SAMPLES) for values in draws], 0)
        with np.errstate(all="ignore"):
            worth = (mean + error * rng.standard_t(freedom, _SAMPLES)) / np.where(slopes > 0, slopes, np.nan)
            spread = pair(*interval(np.exp(worth)))
    scatter = "seeds" if within else "cells"
    return Paired(n, cells, mean, [mean - half, mean + half], scatter, slope, multiplier, spread)


def _pairs(a: Points, b: Points) -> tuple[Array, Array, Array]:
    """Returns log(loss A / loss B), a number for the cell, and a row of A, of each pair."""
    sizes = np.log(np.concatenate([np.stack([p.params, p.tokens], 1) for p in (a, b)]))
    near = (np.abs(sizes[:, None] - sizes[None]) < SAME).all(2)
    cell = near.argmax(1)  # the first row of the same size names the cell
    seed = np.concatenate([points.columns.get("seed", np.full(len(points), np.nan)) for points in (a, b)])
    keys = np.stack([cell, seed if np.isfinite(seed).all() else np.zeros(len(cell))], 1)
    _, first, label = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    of_a = np.arange(len(cell)) < len(a)
    runs, log_loss = (
        np.stack([np.bincount(label.ravel(), values * arm, len(first)) for arm in (of_a, ~of_a)])
        for values in (np.ones(len(cell)), np.log(np.concatenate([a.loss, b.loss])))
    )
    both = (runs > 0).all(0)
    means = log_loss[:, both] / runs[:, both]
    return means[0] - means[1], cell[first[both]], first[both]


def _slopes(fit: "Fit", points: Points, rows: Array, vectors: Array) -> Array:
    """Returns -d log loss / d log compute of parameters [R, P], averaged over the given rows, [R]."""
    named = {name: column[:, None] for name, column in fit.law.named(vectors).items()}
    ends = []
    for step in (-_STEP / 2, _STEP / 2):
        grown = {name: points.variables[name][rows] * np.exp(step / 2) for name in ("params", "tokens")}
        values = {name: column[rows] for name, column in points.variables.items()} | grown
        with np.errstate(all="ignore"):
            ends.append(np.log(np.broadcast_to(fit.law.predict(named, values), (len(vectors), len(rows)))))
    return np.asarray(((ends[0] - ends[1]) / _STEP).mean(1))
