# SPDX-License-Identifier: Apache-2.0
"""The valley of loss over log params at one compute: parabola and cubic, their minima, and power laws through them.

Intervals are a parametric bootstrap: noise is taken as normal, of one size relative to the loss in all budgets; its
variance is pooled over them (sum of squares over the degrees of freedom), and every replicate draws that variance from
its own chi-squared distribution and then all coefficients. So what is linear in the losses has exactly Student's
intervals, and minima, exponents and predictions, which are not, need no linearisation.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from scipy import special

from t5x_like.reporting.wording import percent
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.solver import rms
from t5x_like.scaling.pairs import Pair, pair
from t5x_like.scaling.uncertainty.intervals import interval

Array = np.ndarray

QUANTITIES = ("params", "tokens", "loss")
FORMS = {"parabola": 3, "cubic": 4}  # coefficients
FEWEST_BUDGETS = 3  # for an exponent
SAME = 0.01  # sizes closer than this in log params count as one
Curves = list["Curve | None"]  # of one form, by budget


@dataclass(frozen=True)
class Curve:
    """A polynomial of loss in log params over one budget's runs, and its minimum (params, tokens, loss).
    `samples` [R, 3] are replicates of the minimum's logarithms; NaN where a replicate's minimum is not bracketed."""

    center: float
    coefficients: list[float]  # loss = sum_i coefficients[i] x^i, x = log params - center
    left_out_error: float  # root mean square error at each run when it is left out, relative to the budget's mean loss
    problem: str | None  # why the runs bracket no minimum, or None
    params: float | None = None
    tokens: float | None = None
    loss: float | None = None
    intervals: dict[str, Pair] = field(default_factory=dict)  # 95 %, of the three, by name
    samples: Array = field(default_factory=lambda: np.empty((0, 3)))
    spread: float = np.nan  # standard deviation of log params for noise of 1 relative to the loss, by linearisation


def sizes(params: Array) -> list[float]:
    logs = np.sort(np.log(params))
    return np.exp(logs[np.diff(logs, prepend=-np.inf) > SAME]).tolist()


@dataclass(frozen=True)
class Valley:
    """Least squares of one budget's losses on powers of x = log params - center: V c = loss, V = Q R."""

    form: str
    center: float
    x: Array  # [n]
    mean_loss: float
    coefficients: Array  # [p]
    root: Array  # inverse of R; its square is the coefficients' covariance under unit noise
    residuals: Array  # [n], relative to mean_loss
    left_out: Array  # [n], each run's residual when it is left out, relative to mean_loss
    tokens: Array  # log tokens = tokens[0] + tokens[1] x; exact, with slope -1, at constant 6 params tokens

    @classmethod
    def over(cls, points: Points, rows: Array, form: str) -> "Valley | None":
        """Returns None without one size more than the form has coefficients: nothing would be left to judge it by."""
        if len(sizes(points.params[rows])) <= FORMS[form]:
            return None
        loss, logs = points.loss[rows], np.log(points.params[rows])
        center, mean = float(logs.mean()), float(loss.mean())
        x = logs - center
        q, r = np.linalg.qr(np.vander(x, FORMS[form], increasing=True))
        root, residuals = np.linalg.inv(r), (loss - q @ (q.T @ loss)) / mean
        left_out = residuals / (1 - (q**2).sum(1))
        tokens = polynomial.polyfit(x, np.log(points.tokens[rows]), 1)
        return cls(form, center, x, mean, root @ (q.T @ loss), root, residuals, left_out, tokens)

    def minima(self, coefficients: Array) -> Array:
        """Returns log params, log tokens, log loss [R, 3] at the local minima of curves [R, p]; NaN without one."""
        x = _lowest(coefficients)
        with np.errstate(invalid="ignore"):
            loss = np.log(polynomial.polyval(x, coefficients.T, tensor=False))
        return np.stack([self.center + x, self.tokens[0] + self.tokens[1] * x, loss], -1)

    def bracketed(self, coefficients: Array) -> Array:
        """Returns whether the minima of curves [R, p] are the lowest between smallest and largest size, [R]."""
        x, low, high = np.broadcast_arrays(_lowest(coefficients), self.x.min(), self.x.max())
        inside, left, right = polynomial.polyval(np.stack([x, low, high]), coefficients.T, tensor=False)
        return np.asarray((low < x) & (x < high) & (inside <= np.minimum(left, right)))

    @property
    def problem(self) -> str | None:
        """Why the curve has no minimum that the runs bracket, or None."""
        if self.bracketed(self.coefficients[None])[0]:
            return None
        left, right = polynomial.polyval(np.array([self.x.min(), self.x.max()]), self.coefficients)
        where, wanted = ("largest", "larger") if right < left else ("smallest", "smaller")
        bracketed = f"lowest at the {where} size, so the minimum is not bracketed"
        return f"the {self.form} is {bracketed}; train {wanted} models there"

    def spread(self) -> float:
        """Standard deviation of log params at the minimum for noise of 1 relative to the loss, to first order."""
        x, p = _lowest(self.coefficients[None])[0], len(self.coefficients)
        slopes = np.append(0.0, np.arange(1, p) * x ** np.arange(p - 1))
        curvature = polynomial.polyval(x, polynomial.polyder(self.coefficients, 2))
        return float(np.linalg.norm(self.mean_loss * (slopes @ self.root)) / curvature)

    def curve(self, noise: Array, rng: np.random.Generator) -> Curve:
        """Returns the curve with its minimum, drawn anew for each standard deviation of the relative noise, [R]."""
        normal = rng.normal(size=(len(noise), len(self.coefficients))) @ self.root.T
        drawn = self.coefficients + self.mean_loss * noise[:, None] * normal
        curve = Curve(self.center, self.coefficients.tolist(), rms(self.left_out), self.problem)
        if curve.problem:
            return curve
        best, minima = self.minima(self.coefficients[None])[0], self.minima(drawn)
        with np.errstate(over="ignore"):
            values = dict(zip(QUANTITIES, np.exp(best).tolist(), strict=True))
            around = {name: pair(*interval(np.exp(minima[:, j]))) for j, name in enumerate(QUANTITIES)}
        samples = np.where(self.bracketed(drawn)[:, None], minima, np.nan)
        return replace(curve, **values, intervals=around, samples=samples, spread=self.spread())


def _lowest(coefficients: Array) -> Array:
    """Returns where parabolas or cubics [R, p] have their local minimum, [R]; NaN where they have none."""
    c1, c2, c3 = (*coefficients.T[1:], np.zeros(len(coefficients)))[:3]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.sqrt(c2**2 - 3 * c1 * c3)  # half the curvature there
        # One root of c1 + 2 c2 x + 3 c3 x^2 in the two forms that do not cancel; a parabola needs c2 > 0.
        return np.where(c2 > 0, -c1 / (c2 + slope), np.where(c3 == 0, np.nan, (slope - c2) / (3 * c3)))


def choose(valleys: dict[str, list[Valley | None]]) -> tuple[str, str]:
    """Returns one form for all budgets (chosen apart, noise would choose, and bend the exponent) and why, in words."""
    both = [(p, c) for p, c in zip(valleys["parabola"], valleys["cubic"], strict=True) if p and c]
    if not both:
        return "parabola", "No budget has the sizes to judge a cubic by."
    parabola, cubic = (rms(np.concatenate([valley.left_out for valley in form])) for form in zip(*both, strict=True))
    minima = {form: sum(1 for v in valleys[form] if v and not v.problem) for form in FORMS}
    said = f"Leaving out one run at a time, the parabola misses by {percent(parabola)}, the cubic by {percent(cubic)}"
    if cubic >= parabola:
        return "parabola", f"{said}: the parabola is used in all budgets."
    if minima["cubic"] < min(minima["parabola"], FEWEST_BUDGETS):
        return "parabola", f"{said}; but the cubic has too few bracketed minima."
    return "cubic", f"{said}: the cubic is used in all budgets."


def fit_valleys(valleys: list[Valley | None], replicates: int, rng: np.random.Generator) -> tuple[Curves, float, int]:
    """Returns the curves of one form over all budgets, the noise relative to the loss, and its degrees of freedom."""
    fitted = [valley for valley in valleys if valley]
    freedom = max(1, sum(len(valley.x) - len(valley.coefficients) for valley in fitted))
    squares = sum(float((valley.residuals**2).sum()) for valley in fitted)
    noise = np.sqrt(squares / rng.chisquare(freedom, replicates))
    curves = [valley.curve(noise, rng) if valley else None for valley in valleys]
    return curves, float(np.sqrt(squares / freedom)), freedom


@dataclass(frozen=True)
class PowerLaw:
    """quantity = coefficient C^exponent through the minima, C in FLOPs.

    By least squares in logarithms; minima of params and tokens weigh by their variance under equal noise, so a valley
    that is flat, or bracketed narrowly, says little. For the loss the law holds within the budgets only: it has no
    irreducible loss to level off at. `draws` [R, 2] are replicates of (log coefficient, exponent).
    """

    quantity: str
    coefficient: float
    exponent: float
    exponent_interval: Pair
    draws: Array

    def at(self, flops: Any) -> Array:
        return np.asarray(self.coefficient * np.asarray(flops, float) ** self.exponent)

    def interval(self, flops: float) -> Pair:
        with np.errstate(over="ignore"):
            return pair(*interval(np.exp(self.draws[:, 0] + self.draws[:, 1] * np.log(flops))))


def power_laws(flops: Array, curves: Curves, noise: float, freedom: int) -> tuple[dict[str, PowerLaw], list[str]]:
    """Returns the power laws through the minima at computes [b], by quantity, none below three, and sentences."""
    kept = [(at, curve) for at, curve in zip(flops, curves, strict=True) if curve and not curve.problem]
    if len(kept) < FEWEST_BUDGETS:
        have = f"{len(kept)} of {len(flops)} budgets have a minimum"
        return {}, [f"{have}; an exponent needs at least {FEWEST_BUDGETS} of them."]
    x, spread = np.log([at for at, _ in kept]), np.array([curve.spread for _, curve in kept])
    weights = {"params": spread**-2, "tokens": spread**-2, "loss": np.ones(len(x))}
    laws = {}
    for j, name in enumerate(QUANTITIES):
        best = np.log([getattr(curve, name) for _, curve in kept])
        ((start, slope),) = _lines(x, best[:, None], weights[name])
        draws = _lines(x, np.array([curve.samples[:, j] for _, curve in kept]), weights[name])
        laws[name] = PowerLaw(name, float(np.exp(start)), float(slope), pair(*interval(draws[:, 1])), draws)
    off = np.log([curve.params / laws["params"].at(at) for at, curve in kept])
    left = len(x) - 2
    ratio = float(((off / spread) ** 2).sum()) / left / max(noise, 1e-12) ** 2
    if ratio <= special.fdtri(left, freedom, 0.99):
        return laws, []
    return laws, [
        f"The minima scatter {np.sqrt(ratio):.1f} times as far about the power law of params as the noise within "
        "budgets explains: the intervals are too narrow (untuned runs, or a curve that does not fit, do this)."
    ]


def _lines(x: Array, y: Array, weights: Array) -> Array:
    """Weighted least squares of y [b, R] on x [b]: (value at 0, slope) [R, 2]; NaN are left out, three must stay."""
    known = np.isfinite(y)
    w, y, middle = weights[:, None] * known, np.where(known, y, 0.0), x.mean()
    u = (x - middle)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = w.sum(0)
        mean_u, mean_y = (w * u).sum(0) / total, (w * y).sum(0) / total
        slope = (w * (u - mean_u) * y).sum(0) / (w * (u - mean_u) ** 2).sum(0)
        lines = np.stack([mean_y - slope * (mean_u + middle), slope], -1)
    return np.where((known.sum(0) >= FEWEST_BUDGETS)[:, None], lines, np.nan)
