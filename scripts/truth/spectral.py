# SPDX-License-Identifier: Apache-2.0
"""Losses L(params, tokens) in closed form, with known entropy and exponents: laws are tested on them without training.

Both models explain a power law of the loss by a power law in the data: tasks, or directions, k = 1, 2, ... whose
weight falls like a power of k, of which N parameters hold some and D tokens reveal some. Neither is a Chinchilla law;
each only tends to one. So they show what a law does with a truth that is not its own:

    surface = QuantaModel(entropy=1.7, a=0.5)
    fit = fit_scaling_law(sweep(surface, np.geomspace(1e4, 1e7, 5), np.geomspace(1e6, 1e10, 5), noise=0.003))
    fit.parameters["alpha"] - surface.exponents["alpha"]
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import optimize, special

from t5x_like.errors import UserError

Array = np.ndarray

HEAD = 10_000  # tasks that are summed one by one; behind them Euler-Maclaurin is exact to about 1e-12 of the sum
MODES = 1_000  # directions summed one by one
_LAST = 200.0  # logarithm of the last direction of an infinite spectrum: later ones are below rounding for a > .2
_PANELS, _NODES = 100, 8


class SpectralSurface(Protocol):
    """A known surface: `loss` broadcasts params and tokens; `exponents` are those that the limits tend to."""

    @property
    def entropy(self) -> float: ...

    @property
    def exponents(self) -> dict[str, float]: ...

    def loss(self, params: Any, tokens: Any) -> Array: ...


@dataclass(frozen=True)
class QuantaModel:
    """Tasks of Zipf frequency, of which the N most frequent can be stored and D samples show some.

    Task k occurs with probability p_k = k^-(1+a) / zeta(1+a). Storing it takes one parameter, learning it one
    occurrence among the D samples; a task not known costs `scale` nats each time it occurs. On average over data sets

        L(N, D) = entropy + scale (sum_{k > N} p_k + sum_{k <= N} p_k (1 - p_k)^D)

    Hutter 2021 (Learning Curve Theory) has the sum over data, Michaud et al. 2023 (The Quantization Model of Neural
    Scaling) the sum over capacity. With unlimited data L - entropy tends to A N^-a, with unlimited capacity to
    B D^-(a/(1+a)); between the two limits the terms do not simply add.

    Attributes:
      entropy: the irreducible loss E, in nats per token.
      a: how much faster than 1/k the frequencies fall, above 0.
      scale: nats lost on an unknown task.
    """

    entropy: float
    a: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        _at_least_zero(entropy=self.entropy)
        _positive(a=self.a, scale=self.scale)

    @property
    def exponents(self) -> dict[str, float]:
        return {"alpha": self.a, "beta": self.a / (1 + self.a)}

    @property
    def coefficients(self) -> dict[str, float]:
        """A and B of the two limits: integrals in the place of the sums, (1 - p)^D replaced by exp(-p D)."""
        s = 1 + self.a
        zeta = float(special.zeta(s))
        sampled = zeta ** (-1 / s) / s * float(special.gamma(self.a / s))
        return {"A": self.scale / (self.a * zeta), "B": self.scale * sampled}

    def loss(self, params: Any, tokens: Any) -> Array:
        """Returns the expected loss in nats per token; params, rounded down, and tokens are at least 1."""
        return _pointwise(self._loss_at, params, tokens)

    def _loss_at(self, params: float, tokens: float) -> float:
        stored = np.floor(params)
        s = 1 + self.a
        zeta = special.zeta(s)
        beyond = special.zeta(s, stored + 1) / zeta
        p = np.arange(1.0, min(stored, HEAD) + 1) ** -s / zeta
        unseen = _unseen(p, tokens).sum()
        if stored > HEAD:
            unseen += self._unseen_between(HEAD + 1.0, stored, tokens)
        return float(self.entropy + self.scale * (beyond + unseen))

    def _unseen_between(self, first: float, last: float, tokens: float) -> float:
        """The sum of p_k (1 - p_k)^D over first <= k <= last: an incomplete beta function and its corrections."""
        s = 1 + self.a
        zeta = special.zeta(s)
        k = np.array([first, last])
        p = k**-s / zeta
        f = _unseen(p, tokens)
        slope = -s * f / k * (1 - (tokens + 1) * p) / (1 - p)
        x, y = 1 - 1 / s, tokens + 1
        # B(x, y) by logarithms: gamma functions of 1e12 overflow.
        integral = zeta ** (-1 / s) / s * np.exp(special.betaln(x, y)) * -np.diff(special.betainc(x, y, p))[0]
        return float(integral + f.mean() + np.diff(slope)[0] / 12)


@dataclass(frozen=True)
class RandomFeatureModel:
    """Ridge regression on N random projections of power-law inputs, from D noisy samples, in the limit of large N, D.

    Inputs x have independent normal directions of variance l_k = k^-(1+a). The target is w x plus normal noise of
    variance `entropy`; direction k adds l_k w_k^2 = scale k^-(1+r) to its variance. The model sees N features F'x with
    F normal, and fits their weights to D samples with a ridge penalty. The loss is the squared error on new samples.
    Maloney, Roberts and Sully 2022 (A Solvable Model of Neural Scaling Laws) have r = a and the best ridge; Atanasov,
    Zavatone-Veth and Pehlevan 2024 (Scaling and Renormalization in High-Dimensional Regression) the general case.

    For large N and D the loss does not depend on the draw. With df1 = sum l/(l+q), df2 = sum (l/(l+q))^2 over k, the
    effective ridge q of the two random steps solves

        ridge = q (1 - df1/N) (1 - df1/D)

    and with u = (1 - df1/N) / (1 - df2/N), the factor by which projection slows the change of q,

        loss = (entropy + q sum l w^2/(l+q) - q u sum (l w/(l+q))^2) / (1 - (df1 - u (df1 - df2)) / D)

    The numerator is the error of the best weights at that ridge; the denominator is the cost of estimating them.

    Attributes:
      entropy: the variance of the noise, the irreducible loss.
      a: the spectrum's exponent, above 0 (above .2 if `modes` is None, so that the sums converge in double precision).
      r: the target's exponent, above 0; None takes a, as Maloney et al. do.
      scale: the target's variance in its first direction.
      ridge: the penalty, in units where the first direction has variance 1 and F entries of variance 1/N; None takes
        the best one at every (N, D), without which the loss has a peak at N = D.
      modes: the number of directions; None for infinitely many.
    """

    entropy: float
    a: float
    r: float | None = None
    scale: float = 1.0
    ridge: float | None = None
    modes: int | None = None

    def __post_init__(self) -> None:
        _at_least_zero(entropy=self.entropy)
        _positive(a=self.a, r=self.target_exponent, scale=self.scale)
        if self.ridge is not None:
            _positive(ridge=self.ridge)
        if self.modes is None and min(self.a, self.target_exponent) < 0.2:
            raise UserError(f"a, r: {self.a}, {self.target_exponent}; below .2 give a finite number of modes")

    @property
    def target_exponent(self) -> float:
        return self.a if self.r is None else self.r

    @property
    def exponents(self) -> dict[str, float]:
        """The exponents with the best ridge and infinitely many modes.

        Projections lose the target's tail, but spoil smooth targets no faster than the spectrum falls: min(r, 1+a).
        Samples do so at twice that rate, min(r, 2 + 2a) = s; with noise, what pays is s/(1+s).
        """
        r = self.target_exponent
        smooth = min(r, 2 + 2 * self.a)
        return {"alpha": min(r, 1 + self.a), "beta": smooth / (1 + smooth) if self.entropy else smooth}

    @cached_property
    def spectrum(self) -> tuple[Array, Array, Array]:
        """Variances l [m], target variances l w^2 [m], and how many directions each stands for [m].

        Beyond `MODES` the sum is an integral from half a direction earlier (the midpoint rule), taken by Gauss-Legendre
        panels in log k.
        """
        k, many = np.arange(1.0, min(self.modes or MODES, MODES) + 1), np.ones(min(self.modes or MODES, MODES))
        if self.modes is None or self.modes > MODES:
            last = _LAST if self.modes is None else np.log(self.modes + 0.5)
            edges = np.linspace(np.log(MODES + 0.5), last, _PANELS + 1)
            nodes, weights = np.polynomial.legendre.leggauss(_NODES)
            half = np.diff(edges)[:, None] / 2
            tail = np.exp((edges[:-1, None] + half * (1 + nodes)).ravel())
            k, many = np.concatenate([k, tail]), np.concatenate([many, (half * weights).ravel() * tail])
        return k ** -(1 + self.a), self.scale * k ** -(1 + self.target_exponent), many

    def loss(self, params: Any, tokens: Any) -> Array:
        """Returns the squared error at N = params features and D = tokens samples, noise included."""
        return _pointwise(self._loss_at, params, tokens)

    def _loss_at(self, params: float, tokens: float) -> float:
        few = min(params, tokens, np.inf if self.modes is None else self.modes)
        # No ridge at all: there df1 = min(N, D), or all modes are fitted and q is 0.
        lowest = _root(lambda log_q: np.log(self._degrees(log_q)[0] / few)) if few < (self.modes or np.inf) else -80.0
        if self.ridge is None:
            found = optimize.minimize_scalar(
                lambda log_q: np.log(self._error(log_q, params, tokens)),
                bounds=(lowest + 1e-9, max(lowest, 0.0) + 10.0),
                method="bounded",
                options={"xatol": 1e-7},
            )
            return self._error(float(found.x), params, tokens)

        def excess(log_q: float) -> float:
            df1, _ = self._degrees(log_q)
            return log_q + np.log(max(1 - df1 / params, 1e-300)) + np.log(max(1 - df1 / tokens, 1e-300)) - goal

        goal = float(np.log(self.ridge))
        return self._error(optimize.brentq(excess, lowest, max(goal, lowest) + 100.0, xtol=1e-12), params, tokens)

    def _degrees(self, log_q: float) -> tuple[float, float]:
        variance, _, many = self.spectrum
        kept = variance / (variance + np.exp(log_q))
        return float(many @ kept), float(many @ kept**2)

    def _error(self, log_q: float, params: float, tokens: float) -> float:
        variance, target, many = self.spectrum
        kept = variance / (variance + np.exp(log_q))
        df1, df2 = float(many @ kept), float(many @ kept**2)
        slowed = (1 - df1 / params) / (1 - df2 / params)
        # q l w^2 / (l + q) is target (1 - kept); q (l w / (l+q))^2 is target kept (1 - kept).
        best = float(many @ (target * (1 - kept))) - slowed * float(many @ (target * kept * (1 - kept)))
        return (self.entropy + best) / (1 - (df1 - slowed * (df1 - df2)) / tokens)


def sweep(
    surface: SpectralSurface, params: Any, tokens: Any, *, noise: float = 0.0, seeds: int = 1, seed: int = 0
) -> dict[str, Array]:
    """Returns columns for `read_points`: every size with every budget, `seeds` times, log-normal noise of that sigma.

    Args:
      surface: a model of this file, or anything with its methods.
      params, tokens: the sizes [n] and the budgets [d].
      noise: standard deviation of the log loss; .003 is .3 % of the loss.
      seeds: runs of every cell, numbered in the column `seed`.
      seed: of the noise.
    """
    N, D, run = (axis.ravel() for axis in np.meshgrid(params, tokens, np.arange(seeds), indexing="ij"))
    scatter = np.random.default_rng(seed).normal(size=len(N))
    loss = surface.loss(N, D) * np.exp(noise * scatter)
    return {"params": N.astype(float), "tokens": D.astype(float), "loss": loss, "seed": run.astype(float)}


def _unseen(p: Array, tokens: float) -> Array:
    with np.errstate(divide="ignore"):
        return p * np.exp(tokens * np.log1p(-p))


def _root(function: Callable[[float], float]) -> float:
    return float(optimize.brentq(function, -700.0, 50.0, xtol=1e-12))


def _pointwise(function: Callable[[float, float], float], params: Any, tokens: Any) -> Array:
    N, D = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
    if not ((N >= 1) & (D >= 1)).all():
        raise UserError("params and tokens of a spectral surface must be numbers, 1 or more")
    return np.array([function(float(n), float(d)) for n, d in zip(N.ravel(), D.ravel(), strict=True)]).reshape(N.shape)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name}: {value!r}; it must be a positive number")


def _at_least_zero(**values: float) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value >= 0):
            raise UserError(f"{name}: {value!r}; it must be 0 or a positive number")
