# SPDX-License-Identifier: Apache-2.0
"""Do the intervals cover? The user's own design is simulated: the fitted law is true, its residuals are the noise.

Each simulated data set is fitted, from the truth on, and given intervals by every method; what counts is the share of
them that hold the truth, quantity by quantity. A method whose 95 % is 72 % for this design is one not to use on it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t5x_like.scaling.fitting.solver import Minimum
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws import frontier
from t5x_like.scaling.uncertainty.bootstrap import refit
from t5x_like.scaling.uncertainty.intervals import BOOTSTRAPS, METHODS, replicate, spread_by

Array = np.ndarray
Noise = Callable[[np.random.Generator, tuple[int, ...]], Array]

NOISES: dict[str, Noise] = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "t3": lambda rng, shape: rng.standard_t(3, size=shape) / np.sqrt(3.0),  # of unit variance, with heavy tails
}


def simulate(
    surface: Surface,
    theta: Array,
    noise: float,
    delta: float,
    *,
    methods: Sequence[str] = METHODS,
    shape: str = "gaussian",
    simulations: int = 200,
    replicates: int = 200,
    seed: int = 0,
    asked: frontier.Quantities | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Returns the coverage of nominal 95 % intervals when the law at theta is true.

    Args:
      surface, theta: the law on the design's points, and the truth [P].
      noise, shape: standard deviation of the responses about it, and its distribution, of `NOISES`.
      methods: of `intervals.METHODS`, after fits with the Huber threshold `delta`.
      simulations, replicates: data sets, and bootstrap fits for each of them.
      asked: what is to be covered; `frontier.standard` without it.
      progress: called with (data sets done, all data sets).

    Returns `quantities`: names; `middle`: how wide the middle 95 % of the estimates are, [m]; `methods`: {method: {
    "coverage": [m], "mean", "lowest", "highest", "width": [m], the median width over `middle`}}; what was simulated.
    """
    design = {name: surface.variables[name] * surface.units[name] for name in surface.law.variables}
    asked = asked or frontier.standard(surface.law, design)
    rng = np.random.default_rng(seed)
    exact = surface.predict(theta[None])[0]
    targets = exact + noise * NOISES[shape](rng, (simulations, len(exact)))
    estimates = refit(surface, targets, np.tile(theta, (simulations, 1)), delta)
    truth = asked.of(surface.natural(theta[None]))[0]
    found: dict[str, list[Array]] = {method: [] for method in methods}
    for i, (target, estimate) in enumerate(zip(targets, estimates, strict=True)):
        fit = Minimum(surface, target, estimate, delta)
        for method in methods:
            with np.errstate(all="ignore"):
                draws = replicate(method, fit, replicates if method in BOOTSTRAPS else 0, rng)
                spread = spread_by(method, fit, draws)
                assert spread is not None
                found[method].append(np.stack(spread.of(asked.of)))
        if progress:
            progress(i + 1, simulations)
    with np.errstate(all="ignore"):
        values = asked.of(surface.natural(estimates))
        middle = np.subtract(*np.quantile(values, [0.975, 0.025], axis=0))
    return {
        "quantities": list(asked.names),
        "middle": [float(w) if np.isfinite(w) else None for w in middle],
        "methods": {method: _summary(np.stack(ends), truth, middle) for method, ends in found.items()},
        "points": len(exact),
        "noise": noise,
        "shape": shape,
        "simulations": simulations,
        "replicates": replicates,
        "seed": seed,
    }


def _summary(ends: Array, truth: Array, middle: Array) -> dict[str, Any]:
    """Coverage and width of intervals [S, 2, m]."""
    slack = 1e-9 * np.abs(truth)
    covered = ((ends[:, 0] <= truth + slack) & (truth - slack <= ends[:, 1])).mean(0)
    with np.errstate(all="ignore"):
        width = np.median(ends[:, 1] - ends[:, 0], axis=0) / middle
    return {
        "coverage": [float(share) for share in covered],
        "mean": float(covered.mean()),
        "lowest": float(covered.min()),
        "highest": float(covered.max()),
        "width": [float(w) if np.isfinite(w) else None for w in width],
    }


def best_method(result: dict[str, Any]) -> str:
    """Returns the method whose coverage strays least from 95 %: by its worst quantity, then by its mean."""
    found = result["methods"]

    def stray(method: str) -> tuple[float, float]:
        shares = np.array(found[method]["coverage"])
        return round(float(np.abs(shares - 0.95).max()), 3), abs(found[method]["mean"] - 0.95)

    return min(found, key=stray)
