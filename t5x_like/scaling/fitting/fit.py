# SPDX-License-Identifier: Apache-2.0
"""Fits a scaling law to points: the minimum, the evidence for it, 95 % intervals, and what follows for the next run.

The objective is Hoffmann et al. 2022's (approach 3): the sum over points of Huber(delta) of log predicted minus log
measured, or of predicted minus measured where the residual is "raw" (Gadre et al. 2024).
"""

import copy
import dataclasses
import hashlib
import platform
import warnings as python_warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

import t5x_like
from t5x_like.errors import UserError, unknown_name
from t5x_like.scaling.analysis.diagnosis import concerns
from t5x_like.scaling.fitting.certificate import certify, second_opinion
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.fitting.solver import Minimum, find_minimum, minimise, rms
from t5x_like.scaling.fitting.surface import Surface, surface_of
from t5x_like.scaling.fitting.weights import WEIGHTS, emphasis, leaning, own_delta
from t5x_like.scaling.laws.catalogue import get_law
from t5x_like.scaling.laws.frontier import BEYOND, compute_optimal, prediction
from t5x_like.scaling.laws.laws import Law, complete
from t5x_like.scaling.pairs import Pair, pair
from t5x_like.scaling.uncertainty.holdout import held_out, predict_largest
from t5x_like.scaling.uncertainty.intervals import LEVEL, METHODS, Intervals, replicate, spread_by

if TYPE_CHECKING:
    from t5x_like.scaling.analysis.compare import Comparison

Array = np.ndarray

HUBER_DELTA = 1e-3
BOOTSTRAP = 1000
FEWEST_REPLICATES = 100
RESIDUALS = ("log", "raw")
_REPLICATES = f"0, for no intervals, or at least {FEWEST_REPLICATES}"
_DESCRIBED = {
    "wild": "95 % percentiles of a wild bootstrap of HC3 least-squares residuals, full refits; runs of one trunk move "
    "together",
    "pairs": "95 % percentiles of a bootstrap of points, full refits",
    "delta": "the delta method with 95 % quantiles of Student's t",
    "profile": "profile likelihood with 95 % quantiles of Student's t",
}


class ExtrapolationWarning(UserWarning):
    """A law was asked for losses far beyond the compute it was fitted to."""


@dataclass(frozen=True)
class Fit(Minimum):
    """A fitted law: the minimum, and what follows from it.

    `analyses` are further results by name, each ready for JSON: leaderboard, influence, sensitivity, isoflop, coverage.
    """

    points: Points  # what it was fitted to
    seed: int
    interval_method: str  # of `intervals.METHODS`
    weights: str  # of `weights.WEIGHTS`
    draws: Array  # bootstrap replicates of the parameters, [R, P]; R is 0 when no replicates were asked for
    certificate: dict[str, Any]  # see `certificate.certify`
    holdout: dict[str, Any] | None  # see `holdout.predict_largest`, or None
    warnings: list[str]  # plain sentences
    analyses: Mapping[str, Any] = field(default_factory=dict)

    @property
    def law(self) -> Law:
        return self.surface.law

    @cached_property
    def residuals(self) -> Array:
        """Log measured - log predicted, [n] (measured - predicted of an accuracy), whatever was fitted."""
        return self.surface.misses(self.theta, self.target)

    @cached_property
    def compute_optimal(self) -> dict[str, Any] | None:
        """See `frontier.compute_optimal`."""
        return compute_optimal(self.law, self.vector, self.spread, self.points.compute)

    @cached_property
    def intervals(self) -> dict[str, Pair]:
        """95 % interval of each parameter; empty without replicates."""
        return self.intervals_by(self.interval_method)

    def intervals_by(self, method: str) -> dict[str, Pair]:
        """As `intervals`, by another method: "delta" and "profile" need no replicates."""
        spread = self.spread_by(method)
        if spread is None:
            return {}
        ends = zip(self.law.parameters, *spread.of(lambda vectors: vectors), strict=True)
        return {name: pair(low if name in self.law.signed else max(low, 0.0), high) for name, low, high in ends}

    @property
    def spread(self) -> Intervals | None:
        """Makes the 95 % interval of anything that follows from the parameters; None without replicates."""
        return self.spread_by(self.interval_method)

    def spread_by(self, method: str) -> Intervals | None:
        """As `spread`, by another method: "delta" and "profile" need no replicates."""
        return spread_by(method, self, self.draws)

    @property
    def joint_intervals(self) -> dict[str, Pair]:
        """Percentile intervals, wider than one parameter's own, that hold all at once in 95 % of the replicates.
        Empty without replicates, whatever the method of `intervals`."""
        if not len(self.draws):
            return {}
        ranks = self.draws.argsort(0).argsort(0)  # how deep a replicate lies in the tails decides, not how far out
        depth = np.minimum(ranks, len(ranks) - 1 - ranks).min(1)
        inside = self.draws[depth >= np.quantile(depth, 1 - LEVEL, method="lower")]
        return dict(zip(self.law.parameters, map(pair, inside.min(0), inside.max(0)), strict=True))

    @property
    def covariance(self) -> Array | None:
        """Covariance [P, P] of the replicates; A and B are skewed, so trust their intervals rather than it."""
        return np.atleast_2d(np.cov(self.draws.T)) if len(self.draws) else None

    @property
    def residual_rms(self) -> float:
        """Root mean square of the log-loss residuals: .01 is 1 % of the loss."""
        return rms(self.residuals)

    @property
    def held_out(self) -> Array:
        """Mask [n] of the points that `holdout` predicted from the others."""
        return held_out(self.points) if self.holdout else np.zeros(len(self.points), bool)

    def predict(self, params: Any = None, tokens: Any = None, **others: Any) -> Array:
        """Returns the loss in nats per token at these params and tokens (scalars or arrays, broadcast).

        A law that reads other variables is given them by name: `fit.predict(compute=1e20)`. Warns
        (`ExtrapolationWarning`) beyond 30 times the largest compute of the points.
        """
        variables = self._variables(params, tokens, others)
        return self.law.predict(self.parameters, variables)

    def predict_interval(self, params: Any = None, tokens: Any = None, **others: Any) -> tuple[Array, Array]:
        """Returns the 95 % interval of the law's loss there: of the surface, not of one more noisy run."""
        if self.spread is None:
            raise UserError("predict_interval: this fit has no replicates; fit with bootstrap=1000, or delta intervals")
        variables = self._variables(params, tokens, others)
        shape = np.broadcast_shapes(*(np.shape(value) for value in variables.values()))
        flat = {name: np.broadcast_to(value, shape).ravel() for name, value in variables.items()}
        low, high = self.spread.of(prediction(self.law, flat).of)
        return low.reshape(shape), high.reshape(shape)

    def _variables(self, params: Any, tokens: Any, others: Mapping[str, Any]) -> dict[str, Array]:
        given = {"params": params, "tokens": tokens, **others}
        known = complete({name: np.asarray(value, float) for name, value in given.items() if value is not None})
        for name in self.law.variables:
            if name not in known:
                raise UserError(f"law {self.law.name!r} needs {name}; given: {', '.join(known) or 'nothing'}")
            if not (known[name] > 0).all():
                raise UserError(f"{name}: {given.get(name)!r}; it must be positive")
        if "compute" in known:
            self._warn_beyond(float(np.max(known["compute"])))
        return {name: known[name] for name in self.law.variables}

    def _warn_beyond(self, flops: float) -> None:
        times = flops / float(self.points.compute.max())
        if times > BEYOND * (1 + 1e-9):
            python_warnings.warn(
                f"{times:.3g} times the largest compute of the points: beyond {BEYOND:g} the intervals say little",
                ExtrapolationWarning,
                stacklevel=4,
            )

    def frontier(self, flops: Any) -> list[dict[str, Any]]:
        """Returns the compute-optimal params, tokens and loss at budgets in FLOPs, with intervals, one row each.
        Raises UserError: the law cannot share compute between params and tokens."""
        budgets = np.atleast_1d(np.asarray(flops, float))
        if not (np.isfinite(budgets) & (budgets > 0)).all():
            raise UserError(f"flops: {flops!r}; budgets must be positive numbers")
        self._warn_beyond(float(budgets.max()))
        largest = float(self.points.compute.max())
        found = compute_optimal(self.law, self.vector, self.spread, budgets, largest)
        if found is None:
            raise UserError(f"law {self.law.name!r} has no compute-optimal sizes here: {self.law.formula}")
        return list(found["rows"])

    def compare(self, other: "Fit", **options: Any) -> "Comparison":
        """Compares this arm with another: the compute multiplier at equal loss, with intervals.
        See `compare.compare`, which takes the options `losses` or `flops`, `names` and `seed`."""
        from t5x_like.scaling.analysis.compare import compare

        return compare(self, other, **options)

    def with_analyses(self, **analyses: Any) -> "Fit":
        """Returns the fit with further results beside those it has."""
        fit = copy.copy(self)  # with whatever was computed already
        object.__setattr__(fit, "analyses", {**self.analyses, **analyses})
        return fit

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
            "joint_intervals": self.joint_intervals,
            "objective": self.objective,
            "huber_delta": self.huber_delta,
            "residual": self.law.residual,
            "residual_rms": self.residual_rms,
            "certificate": self.certificate,
            "compute_optimal": self.compute_optimal,
            "holdout": self.holdout,
            "exact_entropy": points.exact_entropy,
            "params_column": points.params_column,
            "num_points": len(points),
            "largest_flops": float(points.compute.max()),
            "warnings": self.warnings,
            **self.analyses,
            "provenance": self._provenance(),
        }

    def _provenance(self) -> dict[str, Any]:
        points = self.points
        known = complete({**points.variables, "loss": points.loss})
        read = sorted({"params", "tokens", "loss", *self.law.variables, self.law.target})
        if self.weights == "loss_stderr":
            read.append("loss_stderr")
        used = np.stack([np.asarray(known[name], float) for name in read])
        return {
            "points": points.source,
            "points_used_sha256": hashlib.sha256(used.tobytes()).hexdigest(),
            "data_fingerprints": list(points.fingerprints),
            "bootstrap": len(self.draws),
            "points_used_columns": read,
            "weights": self.weights,
            "interval_method": _DESCRIBED[self.interval_method],
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
    huber_delta: float | str = HUBER_DELTA,
    bootstrap: int = BOOTSTRAP,
    interval_method: str = "wild",
    weights: str = "equal",
    residual: str | None = None,
    overestimate_penalty: float = 1.0,
    seed: int = 0,
    params_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    units: str | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fits a law to points and says how far it can be trusted.

    Args:
      points: a points.csv, a sweep folder, a mapping of columns, a list of row mappings, an array [n, 3] of
        params, tokens, loss, or `Points`; see `points.read_points`.
      law: a name in `catalogue.LAWS`, or a `Law` of your own.
      huber_delta: the threshold of the Huber loss on residuals; a large one (1e6) is least squares; "auto" takes
        1.345 robust standard deviations of the residuals themselves.
      bootstrap: replicates for the intervals, at least 100, or 0 for the point fit only.
      interval_method: how intervals are made: "wild" or "pairs" bootstrap, "delta" or "profile".
      weights: "equal", or "loss_stderr": by the inverse of each point's squared error plus what the law misses by.
      residual: what is minimised: differences of "log" losses, or of "raw" ones in nats; by default the law's own.
      overestimate_penalty: how many times a squared residual counts where the law lies above the run; 1 is even.
        Intervals take which runs those are as given. `analyses["overestimates"]` says what it changed.
      seed: of the bootstrap.
      params_column: which column of the points counts the parameters, instead of `params`.
      columns, units, strict: how the points are read, see `points.read_points`.
      progress: called with (replicates done, all replicates).

    Raises:
      UserError: unreadable points, an unknown law, a value out of range, or points that cannot determine the law.

    Example:
      >>> fit = fit_scaling_law("points.csv")
      >>> fit.parameters["alpha"], fit.intervals["alpha"], fit.predict(params=7e9, tokens=1.4e11)
    """
    chosen = get_law(law)
    chosen = dataclasses.replace(chosen, residual=residual or chosen.residual)
    check_options(huber_delta, bootstrap, interval_method, weights, seed, chosen.residual, overestimate_penalty)
    points = read_points(points, params_column, columns=columns, units=units, strict=strict)
    surface = surface_of(chosen, points)
    if weights == "loss_stderr":
        surface = surface_of(chosen, points, emphasis(surface, points))
    measured = points.measured(chosen.target)
    target = surface.response(measured)
    delta = own_delta(surface, target) if huber_delta == "auto" else float(huber_delta)
    even = surface
    if overestimate_penalty > 1:
        surface = leaning(even, measured, delta, overestimate_penalty)
        target = surface.response(measured)
    minimum, values, second = _minimum(surface, target, delta)
    holdout, no_holdout = predict_largest(chosen, points, delta)
    rng = np.random.default_rng(seed)
    fit = Fit(
        **vars(minimum),
        points=points,
        seed=seed,
        interval_method=interval_method,
        weights=weights,
        draws=replicate(interval_method, minimum, bootstrap, rng, progress, points.trunks),
        certificate=certify(minimum, values, second),
        holdout=holdout,
        warnings=[no_holdout] if no_holdout else [],
    )
    fit.warnings[:0] = concerns(fit)
    if surface is even:
        return fit
    return fit.with_analyses(overestimates=_what_leaning_changed(even, measured, delta, fit.residuals))


def _what_leaning_changed(even: Surface, measured: Array, delta: float, residuals: Array) -> dict[str, Any]:
    """Returns fit.json's `overestimates`: how many points lie above the law, and the parameters of the even fit."""
    target = even.response(measured)
    fit = Minimum(even, target, find_minimum(even, target, delta)[0], delta)
    return {
        "points_above": int((residuals > 0).sum()),
        "points_above_evenly": int((even.misses(fit.theta, target) > 0).sum()),
        "parameters_evenly": fit.parameters,
    }


def _minimum(surface: Surface, target: Array, delta: float) -> tuple[Minimum, Array, float]:
    """Returns the minimum, the objectives that descents reached, and the lowest that a second method found; where that
    is lower, it is polished and taken."""
    theta, starts, values = find_minimum(surface, target, delta)
    second, place = second_opinion(surface, target, delta, starts[:3], good_enough=float(values.min()))
    if second < values.min():
        polished, value = minimise(surface, target, place[None], delta)
        if value[0] < values.min():
            theta, values = polished[0], np.append(values, value)
    return Minimum(surface, target, theta, delta), values, second


def check_options(
    huber_delta: float | str,
    bootstrap: int,
    interval_method: str,
    weights: str,
    seed: int,
    residual: str = "log",
    overestimate_penalty: float = 1.0,
) -> None:
    """Refuses values that `fit_scaling_law` does not take. Raises UserError: in one line."""
    number = isinstance(huber_delta, int | float) and np.isfinite(huber_delta) and huber_delta > 0
    for name, value, fine, wanted in (
        ("huber_delta", huber_delta, number or huber_delta == "auto", "a positive number, as 1e-3, or auto"),
        ("bootstrap", bootstrap, bootstrap == 0 or bootstrap >= FEWEST_REPLICATES, _REPLICATES),
        ("seed", seed, seed >= 0, "0 or more"),
        ("overestimate_penalty", overestimate_penalty, 1 <= overestimate_penalty < np.inf, "1, for none, or more"),
    ):
        if not fine:
            raise UserError(f"{name}: {value!r}; it must be {wanted}")
    for name, word, known in (
        ("interval_method", interval_method, METHODS),
        ("weights", weights, WEIGHTS),
        ("residual", residual, RESIDUALS),
    ):
        if word not in known:
            raise unknown_name(name, word, known)
