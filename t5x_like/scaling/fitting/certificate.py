# SPDX-License-Identifier: Apache-2.0
"""Evidence that a fit is the minimum: its gradient, a second method's opinion, the bounds that act, how flat it is."""

from typing import Any

import numpy as np
from scipy import optimize

from t5x_like.scaling.fitting.solver import Minimum, free_parameters, huber
from t5x_like.scaling.fitting.surface import Surface

Array = np.ndarray

AGREE = 1e-6  # relative difference of objectives below which two methods found the same minimum
FLAT = 500.0  # condition number from which a direction is barely determined; a good 4 x 4 design has about 100


def certify(minimum: Minimum, values: Array, second: float) -> dict[str, Any]:
    """Returns what speaks for a minimum being the global one.

    `values` are the objectives that descents reached, [S], `second` the lowest that `second_opinion` found.

    Returns:
      `gradient_norm`: of the objective by theta over the free parameters, divided by its size if no residuals
        cancelled: 0 to rounding at a minimum, of order 0.1 to 1 elsewhere.
      `second_method`: scipy's L-BFGS-B on the log-parametrised law: the lowest objective it found, and `agrees`.
      `starts`, `starts_at_minimum`: descents begun, and how many ended here.
      `condition_number`, `flattest_direction`: of the derivative of log losses by log coefficients and exponents.
      `active_bounds`: parameters at a bound, in words.
    """
    surface, objective = minimum.surface, minimum.objective
    condition, direction = _flatness(surface, minimum.theta)
    return {
        "gradient_norm": _gradient_norm(minimum),
        "second_method": {
            "name": "scipy L-BFGS-B, log-parametrised",
            "objective": second,
            "agrees": bool(abs(second - objective) <= AGREE * objective + 1e-15),
        },
        "starts": len(values),
        "starts_at_minimum": int((values <= objective * (1 + AGREE) + 1e-15).sum()),
        "condition_number": condition,
        "flattest_direction": dict(zip(surface.law.searched, direction, strict=True)),
        "active_bounds": [
            f"{name} = {bound:g}"
            for bounds in (surface.lower, surface.upper)
            for name, at, bound in zip(surface.law.searched, minimum.theta, bounds, strict=True)
            if at == bound
        ],
    }


def _gradient_norm(minimum: Minimum) -> float:
    theta, delta = minimum.theta[None], minimum.huber_delta
    jacobian = minimum.surface.jacobian(theta)[1][0]
    pull = np.clip(minimum.misses, -delta, delta)
    gradient = jacobian @ pull
    free = free_parameters(minimum.surface, theta, gradient[None])[0]
    uncancelled = float(np.linalg.norm(np.abs(jacobian) @ (np.abs(pull) + 1e-12)))  # or rounding of exact points
    return float(np.linalg.norm(gradient[free])) / max(uncancelled, 1e-300)


def second_opinion(
    surface: Surface, log_loss: Array, delta: float, starts: Array, good_enough: float
) -> tuple[float, Array]:
    """Returns the lowest objective that L-BFGS-B reaches, from starts [S, P] until one will do, and its theta [P].

    It shares the objective and its derivatives with `solver.minimise`, not the descent or the coordinates. The
    objective is divided by delta times the number of points: at its raw scale scipy's tolerances stop it where it is.
    """
    k = len(surface.law.linear)
    unit = delta * len(log_loss)

    def value_and_gradient(x: Array) -> tuple[float, Array]:
        theta = np.concatenate([np.exp(x[:k]), x[k:]])[None]
        predicted, jacobian = surface.jacobian(theta)
        residuals = predicted[0] - log_loss
        gradient = jacobian[0] @ np.clip(residuals, -delta, delta)
        gradient[:k] *= theta[0, :k]
        return float(huber(residuals, delta).sum() / unit), gradient / unit

    bounds = [(-40.0, 20.0)] * k + list(zip(surface.lower[k:], surface.upper[k:], strict=True))
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-12}
    best, place = np.inf, starts[0]
    for start in starts:
        x = np.concatenate([np.log(np.maximum(start[:k], 1e-6)), start[k:]])
        for _ in range(3):  # restarted, because its curvature estimate ages where residuals cross delta
            found = optimize.minimize(
                value_and_gradient, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
            x = found.x
            if float(found.fun) * unit < best:
                best, place = float(found.fun) * unit, np.concatenate([np.exp(x[:k]), x[k:]])
            if best <= good_enough * (1 + AGREE):
                return best, place
    return best, place


def _flatness(surface: Surface, theta: Array) -> tuple[float, list[float]]:
    """The condition number of the log losses' derivatives, and the unit vector of parameters that they see least;
    coefficients count by their logarithm, and parameters at a bound are left out."""
    _, jacobian = surface.jacobian(theta[None])
    k = len(surface.law.linear)
    scale = np.concatenate([theta[:k], np.ones(len(theta) - k)])
    inside = (theta > surface.lower) & (theta < surface.upper)
    slopes = (jacobian[0] * scale[:, None])[inside]
    vectors, sizes, _ = np.linalg.svd(slopes, full_matrices=False)
    direction = np.zeros(len(theta))
    direction[inside] = vectors[:, -1]
    return float(sizes[0] / max(sizes[-1], 1e-12 * sizes[0])), [float(v) for v in direction]
