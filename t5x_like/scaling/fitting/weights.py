# SPDX-License-Identifier: Apache-2.0
"""How much each point and each residual counts: weights from standard errors, a Huber threshold from the residuals."""

import dataclasses

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.solver import find_minimum, minimise
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.uncertainty.bootstrap import LEAST_SQUARES

Array = np.ndarray

WEIGHTS = ("equal", "loss_stderr")
EFFICIENT = 1.345  # robust standard deviations; a Huber fit is then 95 % as efficient as least squares (Huber 1964)


def robust_scale(residuals: Array, parameters: int) -> float:
    """Standard deviation by the median of |residuals| [n], leaving out as many points as a fit may pass through."""
    return 1.4826 * float(np.median(np.sort(np.abs(residuals))[min(parameters, len(residuals) - 1) :]))


def own_delta(surface: Surface, target: Array) -> float:
    """Returns 1.345 robust standard deviations of the residuals of the fit that has this threshold, found in turns."""
    theta, _, _ = find_minimum(surface, target, LEAST_SQUARES)
    delta = 0.0
    for _ in range(10):
        residuals = target - surface.predict(theta[None])[0]
        last, delta = delta, max(EFFICIENT * robust_scale(residuals, len(theta)), 1e-9)
        if abs(delta / last - 1) < 1e-3 if last else False:
            break
        theta = minimise(surface, target, theta[None], delta)[0][0]
    return delta


def emphasis(surface: Surface, points: Points) -> Array:
    """Returns square roots of weights [n], of mean square 1: 1 / (tau^2 + s^2).

    s is a point's standard error, relative where logarithms are compared, tau what the law misses by beyond those
    errors, from the least-squares residuals of equal weights: without it, one very precise run would decide alone
    what the others are for. Raises UserError: `loss_stderr` is missing somewhere, or not positive.
    """
    stderr = points.columns.get("loss_stderr")
    if stderr is None or not (np.isfinite(stderr) & (stderr > 0)).all():
        raise UserError(f"weights: loss_stderr needs a positive loss_stderr in every row of {points.source}")
    if surface.law.target != "loss":
        raise UserError(f"weights: loss_stderr weighs losses, and law {surface.law.name!r} predicts an accuracy")
    own = (stderr / points.loss if surface.law.logarithmic else stderr) ** 2
    target = surface.response(points.loss)
    theta, _, _ = find_minimum(surface, target, LEAST_SQUARES)
    missed = ((target - surface.predict(theta[None])[0]) ** 2).sum() / (len(target) - len(theta))
    weights = 1 / (max(0.0, missed - own.mean()) + own)
    return np.asarray(np.sqrt(weights / weights.mean()))


def leaning(surface: Surface, target: Array, delta: float, penalty: float) -> Surface:
    """Returns the surface with an emphasis under which a law above a measured loss counts `penalty` times.

    A run can be tuned badly, but not better than well: its loss may lie above the law for reasons that the law is not
    about, hardly below it. So squared residuals of points below the law weigh `penalty` times those of points above
    it (1 changes nothing). Which are which follows from the fit, and is found in turns. `target` are losses [n].
    """
    leant, seen = surface, set()
    while True:
        theta, _, _ = find_minimum(leant, leant.response(target), delta)
        below = leant.misses(theta, leant.response(target)) < 0
        if below.tobytes() in seen:  # stable; or, for a point on the law, either way
            return leant
        seen.add(below.tobytes())
        weights = np.where(below, penalty, 1.0)
        leant = dataclasses.replace(surface, emphasis=surface.emphasis * np.sqrt(weights / weights.mean()))
