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
        value, slopes = self.start.gradient(function)
        low, high = self.start.of(function)
        logarithmic = self.start.logarithmic(function, value, slopes)
        ends = [
            self._end(function, j, value[j], slopes[:, j], bound[j], bool(logarithmic[j]))
            if np.isfinite(bound[j])
            else bound[j]
            for bound in (low, high)
            for j in range(len(value))
        ]
        return np.array(ends[: len(value)]), np.array(ends[len(value) :])

    def _end(self, function: Function, j: int, value: float, slope: Array, bound: float, logarithmic: bool) -> float:
        """Returns where the profile crosses its limit between the estimate and 8 times the given bound's distance."""
        at = np.log if logarithmic else np.asarray
        middle, edge = float(at(value)), float(at(bound))
        if edge == middle:
            return value
        sought = middle + _REACH * (edge - middle)
        forced = _Forced(self.start.surface, lambda v: at(function(v)[..., j]), abs(edge - middle))
        direction = self.start.covariance @ slope
        length = float(slope @ direction) / (value if logarithmic else 1.0)
        theta = self.start.theta + np.outer(sought - middle, direction / length)
        target = np.concatenate([np.tile(self.start.target, (len(sought), 1)), forced.pull * sought[:, None]], 1)
        deltas = np.append(np.full(len(self.start.target), self.start.delta), np.inf)
        with np.errstate(all="ignore"):
            theta, _ = minimise(forced, target, theta, deltas, steps=40, tolerance=1e-5)
            reached, raised = at(function(self.start.surface.natural(theta))[..., j]), self._raised(theta)
        squared, curve = self.start.psi
        limit = np.sqrt(squared / curve / 2) * self.start.quantile
        return _crossing(np.append(middle, reached), np.append(0.0, raised), limit, edge > middle, logarithmic)

    def _raised(self, theta: Array) -> Array:
        """Square roots of the objective above its minimum."""
        start = self.start
        least = huber(start.surface.predict(start.theta[None]) - start.target, start.delta).sum(1)
        return np.sqrt(np.maximum(huber(start.surface.predict(theta) - start.target, start.delta).sum(1) - least, 0))


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
    return float(np.exp(end) if logarithmic else end)


class _Forced:
    """A surface with one more residual, which holds a function of its parameters to a value."""

    def __init__(self, surface: Surface, function: Function, scale: float):
        self.surface, self.function = surface, function
        self.lower, self.upper = surface.lower, surface.upper
        self.pull = 1e2 / scale  # a miss of 1 % of the half width weighs as much as a residual of 1

    def predict(self, theta: Array) -> Array:
        forced = self.pull * self.function(self.surface.natural(theta))
        return np.concatenate([self.surface.predict(theta), forced[:, None]], 1)

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        predicted, slopes = self.surface.jacobian(theta)
        steps = 1e-6 * np.maximum(np.abs(theta), 0.01)
        forced = np.empty((*theta.shape, 1))
        for p in range(theta.shape[1]):
            step = steps * (np.arange(theta.shape[1]) == p)
            ahead, behind = (self.function(self.surface.natural(theta + s)) for s in (step, -step))
            forced[:, p, 0] = self.pull * (ahead - behind) / (2 * steps[:, p])
        value = self.pull * self.function(self.surface.natural(theta))
        return np.concatenate([predicted, value[:, None]], 1), np.concatenate([slopes, forced], 2)
