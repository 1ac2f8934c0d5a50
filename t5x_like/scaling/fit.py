# SPDX-License-Identifier: Apache-2.0
"""Fits a scaling law to points: the minimum, the evidence for it, 95 % intervals, and what follows for the next run.

The objective is Hoffmann et al. 2022's (approach 3): the sum over points of Huber(delta) of log predicted minus log
measured.
"""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

import t5x_like
from t5x_like.errors import UserError
from t5x_like.scaling.certificate import certify
from t5x_like.scaling.diagnosis import Pair, concerns
from t5x_like.scaling.frontier import compute_optimal
from t5x_like.scaling.holdout import held_out, predict_largest
from t5x_like.scaling.intervals import as_pair, interval, wild_bootstrap
from t5x_like.scaling.laws import Law, get_law
from t5x_like.scaling.points import Points, read_points
from t5x_like.scaling.solver import find_minimum, huber
from t5x_like.scaling.surface import surface_of

Array = np.ndarray

HUBER_DELTA = 1e-3
BOOTSTRAP = 1000
FEWEST_REPLICATES = 100


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      law, points, huber_delta, seed: what was fitted, to what, and how.
      vector: parameters [P] in the order of `law.parameters`, in the law's own units.
      draws: bootstrap replicates of them, [R, P]; R is 0 when no intervals were asked for.
      objective: the sum of Huber losses at the minimum.
      residuals: log measured - log predicted, [n].
      certificate: see `certificate.certify`.
      holdout: see `holdout.predict_largest`, or None.
      compute_optimal: see `frontier.compute_optimal`, or None.
      warnings: plain sentences.
    """

    law: Law
    points: Points
    huber_delta: float
    seed: int
    vector: Array
    draws: Array
    objective: float
    residuals: Array
    certificate: dict[str, Any]
    holdout: dict[str, Any] | None
    compute_optimal: dict[str, Any] | None
    warnings: list[str]

    @property
    def parameters(self) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.law.parameters, self.vector, strict=True)}

    @property
    def intervals(self) -> dict[str, Pair]:
        """95 % interval of each parameter; empty without replicates."""
        return _intervals(self.law, self.draws)

    @property
    def covariance(self) -> Array | None:
        """Covariance [P, P] of the replicates; A and B are skewed, so trust their intervals rather than it."""
        return np.atleast_2d(np.cov(self.draws.T)) if len(self.draws) else None

    @property
    def residual_rms(self) -> float:
        """Root mean square of the log-loss residuals: .01 is 1 % of the loss."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def held_out(self) -> Array:
        """Mask [n] of the points that `holdout` predicted from the others."""
        return held_out(self.points) if self.holdout else np.zeros(len(self.points), bool)

    def predict(self, params: Any, tokens: Any) -> Array:
        """Returns the loss in nats per token at these params and tokens (scalars or arrays, broadcast)."""
        return self._predict(self.vector, params, tokens)

    def predict_interval(self, params: Any, tokens: Any) -> tuple[Array, Array]:
        """Returns the 95 % interval of the law's loss there: of the surface, not of one more noisy run."""
        shape = np.broadcast_shapes(np.shape(params), np.shape(tokens))
        return interval(self._predict(self.draws.reshape(-1, *[1] * len(shape), self.draws.shape[-1]), params, tokens))

    def _predict(self, vectors: Array, params: Any, tokens: Any) -> Array:
        variables = {"params": np.asarray(params, float), "tokens": np.asarray(tokens, float)}
        return self.law.predict(self.law.named(vectors), variables)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of fit.json: strict JSON, null where a value does not exist."""
        points = self.points
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "parameters": self.parameters,
            "covariance": None if self.covariance is None else self.covariance.tolist(),
            "covariance_order": list(self.law.parameters),
            "intervals": self.intervals,
            "objective": self.objective,
            "huber_delta": self.huber_delta,
            "residual_rms": self.residual_rms,
            "certificate": self.certificate,
            "compute_optimal": self.compute_optimal,
            "holdout": self.holdout,
            "exact_entropy": points.exact_entropy,
            "params_column": points.params_column,
            "num_points": len(points),
            "largest_flops": float(points.compute.max()),
            "warnings": self.warnings,
            "provenance": self._provenance(),
        }

    def _provenance(self) -> dict[str, Any]:
        points = self.points
        used = np.stack([points.params, points.tokens, points.loss])
        return {
            "points": points.source,
            "points_used_sha256": hashlib.sha256(used.tobytes()).hexdigest(),
            "data_fingerprints": list(points.fingerprints),
            "bootstrap": len(self.draws),
            "interval_method": "95 % percentiles of a wild bootstrap of HC3 least-squares residuals, full refits",
            "seed": self.seed,
            "versions": {
                "t5x_like": t5x_like.__version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "scipy": scipy.__version__,
            },
        }


def fit_scaling_law(
    points: Any,
    law: str | Law = "chinchilla",
    *,
    huber_delta: float = HUBER_DELTA,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
    params_column: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fits a law to points and says how far it can be trusted.

    Args:
      points: a points.csv, a sweep folder, a mapping of columns, a list of row mappings, an array [n, 3] of
        params, tokens, loss, or `Points`; see `points.read_points`.
      law: a name in `laws.LAWS`, or a `Law` of your own.
      huber_delta: the threshold of the Huber loss on log residuals; a large one (1e6) is least squares.
      bootstrap: replicates for the intervals, at least 100, or 0 for the point fit only.
      seed: of the bootstrap.
      params_column: which column of the points counts the parameters, instead of `params`.
      progress: called with (replicates done, all replicates).

    Raises:
      UserError: unreadable points, an unknown law, a value out of range, or points that cannot determine the law.

    Example:
      >>> fit = fit_scaling_law("points.csv")
      >>> fit.parameters["alpha"], fit.intervals["alpha"], fit.predict(params=7e9, tokens=1.4e11)
    """
    chosen = get_law(law)
    if not (np.isfinite(huber_delta) and huber_delta > 0):
        raise UserError(f"huber_delta: {huber_delta!r}; it must be a positive number (Hoffmann et al. use 1e-3)")
    if bootstrap != 0 and bootstrap < FEWEST_REPLICATES:
        raise UserError(f"bootstrap: {bootstrap}; it must be 0, for no intervals, or at least {FEWEST_REPLICATES}")
    if seed < 0:
        raise UserError(f"seed: {seed}; it must be 0 or more")
    points = read_points(points, params_column)
    surface = surface_of(chosen, points)
    log_loss = np.log(points.loss)
    theta, starts, values = find_minimum(surface, log_loss, huber_delta)
    vector = surface.natural(theta[None])[0]
    draws = np.empty((0, len(vector)))
    if bootstrap:
        rng = np.random.default_rng(seed)
        replicates = wild_bootstrap(surface, log_loss[None], theta[None], huber_delta, bootstrap, rng, progress)
        draws = surface.natural(replicates[:, 0])
    residuals = log_loss - surface.predict(theta[None])[0]
    certificate = certify(surface, log_loss, theta, huber_delta, starts, values)
    holdout, no_holdout = predict_largest(chosen, points, huber_delta)
    optimal = compute_optimal(chosen, vector, draws, points.compute)
    parameters = {name: float(value) for name, value in zip(chosen.parameters, vector, strict=True)}
    warnings = concerns(chosen, points, parameters, _intervals(chosen, draws), residuals, certificate, optimal, holdout)
    return Fit(
        law=chosen,
        points=points,
        huber_delta=float(huber_delta),
        seed=seed,
        vector=vector,
        draws=draws,
        objective=float(huber(residuals, huber_delta).sum()),
        residuals=residuals,
        certificate=certificate,
        holdout=holdout,
        compute_optimal=optimal,
        warnings=[*warnings, *([no_holdout] if no_holdout else [])],
    )


def _intervals(law: Law, draws: Array) -> dict[str, Pair]:
    return {name: as_pair(draws[:, i]) for i, name in enumerate(law.parameters)} if len(draws) else {}
