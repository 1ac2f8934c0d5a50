# SPDX-License-Identifier: Apache-2.0
"""95 % intervals of anything that follows from a law's parameters, by four methods that answer the same question.

An `Intervals` takes a function of printed parameters, [..., P] -> [..., m]: the parameters themselves, the exponent a,
N*(C) at a hundred budgets, predicted losses. `Replicates` reads percentiles off bootstrap fits; `Delta` linearises;
`Profile` asks how far the quantity can be pushed before the fit becomes implausible.

The last two need the spread of the points about the law. It is that of least squares, s^2 = RSS / (n - p), for normal
errors; a Huber fit with threshold delta then varies more than least squares by a factor that is known (Huber 1964):
E[psi^2] / E[psi']^2 / s^2, which is pi / 2 for delta -> 0 and 1 for a wide threshold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import special

from t5x_like.scaling.bootstrap import LEAST_SQUARES
from t5x_like.scaling.solver import huber, minimise
from t5x_like.scaling.surface import Surface

Array = np.ndarray
Function = Callable[[Array], Array]

LEVEL = 0.95
METHODS = ("wild", "pairs", "delta", "profile")


def interval(samples: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """Returns the central percentile interval over axis 0; infinite where too many samples are not finite."""
    tail = (1 - level) / 2
    low = np.quantile(np.where(np.isnan(samples), -np.inf, samples), tail, axis=0, method="lower")
    high = np.quantile(np.where(np.isnan(samples), np.inf, samples), 1 - tail, axis=0, method="higher")
    return low, high


class Intervals(Protocol):
    """A method of making intervals for one fit."""

    def of(self, function: Function) -> tuple[Array, Array]:
        """Returns the 95 % interval, (low [m], high [m]), of a function of printed parameters [..., P] -> [..., m]."""
        ...


@dataclass(frozen=True)
class Replicates:
    """Percentiles over bootstrap fits: printed parameters [R, P]."""

    draws: Array

    def of(self, function: Function) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            return interval(function(self.draws))


@dataclass(frozen=True)
class Delta:
    """The delta method with quantiles of Student's t, on whichever scale is straighter: the value's or its logarithm's.

    Attributes:
      surface: the law on its points.
      target: responses [n].
      theta: the fit [P].
      delta: its Huber threshold.
    """

    surface: Surface
    target: Array
    theta: Array
    delta: float

    @cached_property
    def free(self) -> Array:
        """Parameters that are not at a bound, bool [P]."""
        return (self.theta > self.surface.lower) & (self.theta < self.surface.upper)

    @cached_property
    def degrees(self) -> int:
        return max(1, len(self.target) - int(self.free.sum()))

    @cached_property
    def spread(self) -> float:
        """s, the standard deviation of responses about the law, by least squares."""
        theta, _ = minimise(self.surface, self.target, self.theta[None], LEAST_SQUARES)
        return max(float(np.sqrt(((self.surface.predict(theta)[0] - self.target) ** 2).sum() / self.degrees)), 1e-300)

    @cached_property
    def psi(self) -> tuple[float, float]:
        """E[psi^2] and E[psi'] of the Huber threshold under normal errors of standard deviation `spread`."""
        c = self.delta / self.spread
        inside = special.erf(c / np.sqrt(2))
        density = np.exp(-(c**2) / 2) / np.sqrt(2 * np.pi)
        squared = inside - 2 * c * density + c**2 * (1 - inside) if c < 1e3 else 1.0
        return float(squared * self.spread**2), float(inside)

    @cached_property
    def covariance(self) -> Array:
        """Covariance of theta, [P, P]; 0 for parameters at a bound."""
        _, jacobian = self.surface.jacobian(self.theta[None])
        slopes = jacobian[0] * self.free[:, None]
        squared, slope = self.psi
        return np.asarray(squared / slope**2 * np.linalg.pinv(slopes @ slopes.T, rcond=1e-13, hermitian=True))

    @property
    def quantile(self) -> float:
        return float(special.stdtrit(self.degrees, 0.5 + LEVEL / 2))

    def gradient(self, function: Function) -> tuple[Array, Array]:
        """Returns the function's values [m] at the fit, and its slopes [P, m] by theta, by central differences."""
        steps = 1e-6 * np.maximum(np.abs(self.theta), 0.01) * self.free
        moved = np.concatenate([self.theta[None], self.theta + np.diag(steps), self.theta - np.diag(steps)])
        with np.errstate(all="ignore"):
            values = function(self.surface.natural(moved))
            ahead, behind = np.split(values[1:], 2)
            slopes = (ahead - behind) / np.where(steps > 0, 2 * steps, 1)[:, None]
        return values[0], np.where(self.free[:, None], slopes, 0.0)

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


_REACH = np.array([0.6, 0.8, 0.95, 1.1, 1.3, 1.7, 2.5, 4.0, 8.0])  # of the delta method's half width


@dataclass(frozen=True)
class Profile:
    """Profile likelihood: the values of a quantity that raise the least objective by less than t^2 allows.

    Each value is imposed by one more residual of great weight, and everything else is fitted again. An end that lies
    beyond 8 times the delta method's is called unbounded.
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
        # one row for every end, output and reach
        side, j, reach = (part.ravel() for part in np.meshgrid([-1, 1], known, _REACH, indexing="ij"))
        with np.errstate(all="ignore"):
            edge = forced.at(np.where(side < 0, low[j], high[j]), j)
            sought = middle[j] + reach * (edge - middle[j])
            reached, raised = self._pushed(forced, j, sought - middle[j], value, slopes, logarithmic)
        limit = np.sqrt(start.psi[0] / start.psi[1] / 2) * start.quantile
        ends = {-1: low.copy(), 1: high.copy()}
        for s, output in ((s, output) for s in ends for output in known):
            rows = (side == s) & (j == output)
            x = np.append(middle[output], reached[rows])
            ends[s][output] = _crossing(x, np.append(0.0, raised[rows]), limit, s > 0, bool(logarithmic[output]))
        return ends[-1], ends[1]

    def _pushed(
        self, forced: "_Forced", j: Array, moves: Array, value: Array, slopes: Array, logarithmic: Array
    ) -> tuple[Array, Array]:
        """Holds output j of each row at its estimate plus a move; returns where it ended, and the root of the rise."""
        start = self.start
        direction = start.covariance @ slopes
        length = np.einsum("pm,pm->m", slopes, direction) / np.where(logarithmic, value, 1.0)
        theta = start.theta + (moves / length[j])[:, None] * direction[:, j].T
        n, m = len(start.target), len(value)
        target = np.concatenate([np.tile(start.target, (len(j), 1)), np.zeros((len(j), m))], 1)
        target[np.arange(len(j)), n + j] = forced.pull[j] * (forced.at(value)[j] + moves)
        weights = np.concatenate([np.ones((len(j), n)), j[:, None] == np.arange(m)], 1)
        deltas = np.append(np.full(n, start.delta), np.full(m, np.inf))
        theta, _ = minimise(forced, target, theta, deltas, weights, steps=40, tolerance=1e-5)
        least, risen = (
            huber(start.surface.predict(at) - start.target, start.delta).sum(1) for at in (start.theta[None], theta)
        )
        ended = forced.at(forced.function(start.surface.natural(theta)))[np.arange(len(j)), j]
        return ended, np.sqrt(np.maximum(risen - least, 0))


def _crossing(x: Array, raised: Array, limit: float, upwards: bool, logarithmic: bool) -> float:
    """Interpolates where `raised`, made monotone, first passes the limit."""
    usable = np.isfinite(x) & np.isfinite(raised)
    x, raised = x[usable], raised[usable]
    order = np.argsort(x if upwards else -x)
    x, raised = x[order], np.maximum.accumulate(raised[order])
    if raised[-1] < limit:
        if upwards:
            return np.inf
        return 0.0 if logarithmic else -np.inf
    i = max(1, int(np.argmax(raised >= limit)))
    share = (limit - raised[i - 1]) / max(raised[i] - raised[i - 1], 1e-300)
    end = x[i - 1] + share * (x[i] - x[i - 1])
    with np.errstate(over="ignore"):
        return float(np.exp(end) if logarithmic else end)


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
