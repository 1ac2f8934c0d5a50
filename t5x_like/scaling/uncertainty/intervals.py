# SPDX-License-Identifier: Apache-2.0
"""95 % intervals of anything that follows from a law's parameters, by four methods that answer the same question.

An `Intervals` takes a function of printed parameters, [..., P] -> [..., m]: the parameters themselves, the exponent a,
N*(C) at a hundred budgets, predicted losses. `Replicates` reads percentiles off bootstrap fits; `Delta` linearises;
`Profile` asks how far the quantity can be pushed before the fit becomes implausible.

The last two need the spread of the points about the law. It is that of least squares, s^2 = RSS / (n - p), for normal
errors; a Huber fit with threshold delta then varies more than least squares by a factor that is known (Huber 1964):
E[psi^2] / E[psi']^2 / s^2, which is pi / 2 for delta -> 0 and 1 for a wide threshold.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from t5x_like.scaling.fitting.solver import Minimum, huber, minimise
from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.pairs import Function, Intervals
from t5x_like.scaling.uncertainty.bootstrap import LEAST_SQUARES, Progress, pairs_bootstrap, wild_bootstrap

Array = np.ndarray

LEVEL = 0.95
BOOTSTRAPS = ("wild", "pairs")
METHODS = (*BOOTSTRAPS, "delta", "profile")


def interval(samples: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Returns the central percentile interval over axis 0; infinite where too many samples are not finite."""
    tail = (1 - level) / 2
    low = np.quantile(np.where(np.isnan(samples), -np.inf, samples), tail, axis=0, method="lower")
    high = np.quantile(np.where(np.isnan(samples), np.inf, samples), 1 - tail, axis=0, method="higher")
    return low, high


@dataclass(frozen=True)
class Replicates:
    """Percentiles over bootstrap fits: printed parameters [R, P]."""

    draws: Array

    def of(self, function: Function) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return interval(function(self.draws))


@dataclass(frozen=True)
class Delta(Minimum):
    """The delta method with quantiles of Student's t, as values or as logarithms, whichever is straighter."""

    @property
    def degrees(self) -> int:
        return max(1, len(self.target) - len(self.theta))

    @cached_property
    def spread(self) -> float:
        """s, the standard deviation of responses about the law, by least squares."""
        theta, _ = minimise(self.surface, self.target, self.theta[None], LEAST_SQUARES)
        return max(float(np.sqrt(((self.surface.predict(theta)[0] - self.target) ** 2).sum() / self.degrees)), 1e-300)

    @cached_property
    def psi(self) -> tuple[float, float]:
        """E[psi^2] and E[psi'] of the Huber threshold under normal errors of standard deviation `spread`."""
        c = min(self.huber_delta / self.spread, 1e3)
        inside = special.erf(c / np.sqrt(2))
        density = np.exp(-(c**2) / 2) / np.sqrt(2 * np.pi)
        squared = inside - 2 * c * density + c**2 * (1 - inside)
        return float(squared * self.spread**2), float(inside)

    @cached_property
    def covariance(self) -> Array:
        """Covariance of theta, [P, P]; a parameter at its bound counts as if it were free, so it keeps an error."""
        _, jacobian = self.surface.jacobian(self.theta[None])
        squared, slope = self.psi
        gram = jacobian[0] @ jacobian[0].T
        return np.asarray(squared / slope**2 * np.linalg.pinv(gram, rcond=1e-13, hermitian=True))

    @property
    def quantile(self) -> float:
        return float(special.stdtrit(self.degrees, 0.5 + LEVEL / 2))

    def gradient(self, function: Function) -> tuple[Array, Array]:
        """Returns the function's values [m] at the fit, and its slopes [P, m] by theta, by central differences."""
        steps = 1e-6 * np.maximum(np.abs(self.theta), 0.01)
        moved = np.concatenate([self.theta[None], self.theta + np.diag(steps), self.theta - np.diag(steps)])
        with np.errstate(all="ignore"):
            values = function(self.surface.natural(moved))
            ahead, behind = np.split(values[1:], 2)
            slopes = (ahead - behind) / (2 * steps[:, None])
        return values[0], slopes

    def logarithmic(self, function: Function, value: Array, slopes: Array) -> Array:
        """Whether each output [m] bends less in its logarithm than as it is, one standard error up and down."""
        direction = self.covariance @ slopes
        length = np.sqrt(np.maximum(np.einsum("pm,pm->m", slopes, direction), 1e-300))
        with np.errstate(all="ignore"):
            up, down = (
                np.diagonal(function(self.surface.natural(self.theta + sign * (direction / length).T)))
                for sign in (1.0, -1.0)
            )
            plain = np.abs(up + down - 2 * value) / np.abs(up - down)
            in_logs = np.abs(np.log(up * down / value**2) / np.log(up / down))
        return np.asarray((value > 0) & (up > 0) & (down > 0) & (in_logs < plain))

    def of(self, function: Function) -> tuple[Array, Array]:
        value, slopes = self.gradient(function)
        with np.errstate(all="ignore"):
            error = self.quantile * np.sqrt(np.einsum("pm,pq,qm->m", slopes, self.covariance, slopes))
            ratio = np.exp(error / value)
            positive = self.logarithmic(function, value, slopes) & np.isfinite(ratio)
            low, high = (np.where(positive, value * r, value + e) for r, e in ((1 / ratio, -error), (ratio, error)))
        return np.where(np.isfinite(low), low, -np.inf), np.where(np.isfinite(high), high, np.inf)


_REACH = np.array([0.5, 0.8, 1.1, 1.5, 2.2, 3.5, 5.5, 8.0])  # of the delta method's half width
_WITHIN = np.array([0.2, 0.4, 0.6, 0.8])  # of the step that encloses an end


@dataclass(frozen=True)
class Profile:
    """Profile likelihood: the values of a quantity that raise the least objective by less than t^2 allows.

    Each value is imposed by one more residual of great weight, and everything else is fitted again: first at multiples
    of the delta method's half width, then between the two that enclose the end. An end beyond 8 times that width is
    called unbounded; one that the parameters' bounds do not let it reach is where they stop it.
    """

    start: Delta

    def of(self, function: Function) -> tuple[Array, Array]:
        start = self.start
        value, slopes = start.gradient(function)
        low, high = start.of(function)
        logarithmic = start.logarithmic(function, value, slopes)
        forced = _Forced(start.surface, function, logarithmic, (high - low) / 2, value)
        middle = forced.at(value)
        known = np.flatnonzero(np.isfinite(middle) & np.isfinite(low) & np.isfinite(high) & (high > low))
        # one row for every end and output
        side, j = (part.ravel() for part in np.meshgrid([-1, 1], known, indexing="ij"))
        with np.errstate(all="ignore"):
            edge = forced.at(np.where(side < 0, low[j], high[j]), j) - middle[j]
            tried = self._tried(forced, j, edge[:, None] * _REACH, value, slopes, logarithmic)
            inner, outer = _enclosing(*tried, self._limit)
            moves = inner[:, None] + (outer - inner)[:, None] * _WITHIN
            closer = self._tried(forced, j, moves, value, slopes, logarithmic)
        ends = {-1: low.copy(), 1: high.copy()}
        for row, (s, output) in enumerate(zip(side, j, strict=True)):
            x, raised = (np.concatenate([[0.0], *(part[k][row] for part in (tried, closer))]) for k in (0, 1))
            ends[s][output] = _crossing(middle[output], x, raised, self._limit, s > 0, bool(logarithmic[output]))
        return ends[-1], ends[1]

    @property
    def _limit(self) -> float:
        """How far the root of the objective may rise above its minimum's."""
        squared, slope = self.start.psi
        return float(np.sqrt(squared / slope / 2)) * self.start.quantile

    def _tried(
        self, forced: "_Forced", j: Array, moves: Array, value: Array, slopes: Array, logarithmic: Array
    ) -> tuple[Array, Array]:
        """Holds output j of each row at its estimate plus each of moves [rows, k].
        Returns how far it got, and the root of the rise of the objective, [rows, k] each."""
        start, shape = self.start, moves.shape
        j, moves = np.repeat(j, shape[1]), moves.ravel()
        direction = start.covariance @ slopes
        length = np.einsum("pm,pm->m", slopes, direction) / np.where(logarithmic, value, 1.0)
        theta = start.theta + (moves / length[j])[:, None] * direction[:, j].T
        middle, n, m, all_ = forced.at(value)[j], len(start.target), len(value), np.arange(len(j))
        target = np.concatenate([np.tile(start.target, (len(j), 1)), np.zeros((len(j), m))], 1)
        target[all_, n + j] = forced.pull[j] * (middle + moves)
        weights = np.concatenate([np.ones((len(j), n)), j[:, None] == np.arange(m)], 1)
        deltas = np.append(np.full(n, start.huber_delta), np.full(m, np.inf))
        theta, _ = minimise(forced, target, theta, deltas, weights, steps=100, tolerance=1e-12)
        risen = huber(start.surface.predict(theta) - start.target, start.huber_delta).sum(1) - start.objective
        ended = forced.at(forced.function(start.surface.natural(theta)))[all_, j]
        return (ended - middle).reshape(shape), np.sqrt(np.maximum(risen, 0)).reshape(shape)


def _enclosing(moved: Array, raised: Array, limit: float) -> tuple[Array, Array]:
    """Returns the moves [rows] between which each row's rise passes the limit; the last step where it never does."""
    above = np.where(np.isfinite(raised), raised, np.inf) >= limit
    first = np.where(above.any(1), above.argmax(1), moved.shape[1] - 1)
    padded = np.concatenate([np.zeros((len(moved), 1)), np.nan_to_num(moved)], 1)
    rows = np.arange(len(moved))
    return padded[rows, first], padded[rows, first + 1]


def _crossing(middle: float, moved: Array, raised: Array, limit: float, upwards: bool, logarithmic: bool) -> float:
    """Interpolates where `raised`, made monotone, first passes the limit."""
    usable = np.isfinite(moved) & np.isfinite(raised)
    order = np.argsort(np.abs(moved[usable]))
    moved, raised = moved[usable][order], np.maximum.accumulate(raised[usable][order])
    with np.errstate(over="ignore"):
        back = np.exp if logarithmic else np.asarray
        if raised[-1] < limit:
            stuck = len(moved) > 2 and abs(moved[-1] - moved[-3]) <= 1e-3 * abs(moved[-1])
            if stuck or moved[-1] == 0:  # pushed ever harder, it stays: a bound of the parameters
                return float(back(middle + moved[-1]))
            return np.inf if upwards else 0.0 if logarithmic else -np.inf
        i = max(1, int(np.argmax(raised >= limit)))
        share = (limit - raised[i - 1]) / max(raised[i] - raised[i - 1], 1e-300)
        return float(back(middle + moved[i - 1] + share * (moved[i] - moved[i - 1])))


class _Forced:
    """A surface with m more residuals, which hold functions of its parameters to values where they are weighed."""

    def __init__(self, surface: Surface, function: Function, logarithmic: Array, width: Array, value: Array):
        self.surface, self.function, self.logarithmic = surface, function, logarithmic
        self.lower, self.upper = surface.lower, surface.upper
        with np.errstate(all="ignore"):
            scale = np.where(logarithmic, width / value, width)
            self.pull = np.where(scale > 0, 1e2 / scale, 0.0)  # 1 % of the half width weighs as a residual of 1

    def at(self, values: Array, j: Array | None = None) -> Array:
        """Values of all outputs, or of outputs j, on the scale where they are straighter."""
        logarithmic = self.logarithmic if j is None else self.logarithmic[j]
        with np.errstate(all="ignore"):
            return np.where(logarithmic, np.log(values), values)

    def _held(self, theta: Array) -> Array:
        return np.nan_to_num(self.pull * self.at(self.function(self.surface.natural(theta))), posinf=0, neginf=0)

    def predict(self, theta: Array) -> Array:
        return np.concatenate([self.surface.predict(theta), self._held(theta)], 1)

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        predicted, slopes = self.surface.jacobian(theta)
        steps = 1e-6 * np.maximum(np.abs(theta), 0.01)
        moves = steps[:, None] * np.eye(theta.shape[1])  # [R, P, P]
        flat = (-1, theta.shape[1])
        ahead, behind = (self._held((theta[:, None] + s * moves).reshape(flat)) for s in (1, -1))
        held = (ahead - behind).reshape(*theta.shape, -1) / (2 * steps[..., None])
        return np.concatenate([predicted, self._held(theta)], 1), np.concatenate([slopes, held], 2)


def replicate(
    method: str,
    fit: Minimum,
    replicates: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
    groups: Array | None = None,
) -> Array:
    """Returns bootstrap fits as printed parameters, [replicates, P]; wild ones, in `groups`, but for "pairs"."""
    if not replicates:
        return np.empty((0, len(fit.surface.law.parameters)))
    if method == "pairs":
        draws = pairs_bootstrap(fit.surface, fit.target, fit.theta, fit.huber_delta, replicates, rng, progress)
    else:
        one = fit.surface, fit.target[None], fit.theta[None], fit.huber_delta
        draws = wild_bootstrap(*one, replicates, rng, progress, groups)[:, 0]
    return fit.surface.natural(draws)


def spread_by(method: str, fit: Minimum, draws: Array) -> Intervals | None:
    """Returns a method's intervals for one fit; None where it needs replicates [R, P] and there are none."""
    if method in BOOTSTRAPS:
        return Replicates(draws) if len(draws) else None
    linear = Delta(fit.surface, fit.target, fit.theta, fit.huber_delta)
    return Profile(linear) if method == "profile" else linear
