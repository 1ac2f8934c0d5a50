# SPDX-License-Identifier: Apache-2.0
"""Minimises the sum of Huber losses of residuals, many data sets at once, from many starts.

The targets are responses (see `surface.Surface`): logarithms of losses, or accuracies. Each data set may weigh its
points by its own counts [R, n]: 0 leaves a point out, a bootstrap of pairs draws it several times.

Two steps. `profile` uses that a law is linear once its exponents are fixed: a grid over the exponents, and in each cell
a small non-negative least squares, reweighted a few times. `minimise` polishes all parameters together.

Legend: R data sets or starts, n points, P parameters, K linear coefficients, Q exponents.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.stats import qmc

from t5x_like.scaling.fitting.surface import Surface
from t5x_like.scaling.laws.laws import Law

Array = np.ndarray


class Responses(Protocol):
    """What `minimise` needs of a surface: responses and slopes at theta [R, P], and bounds [P]."""

    @property
    def lower(self) -> Array: ...

    @property
    def upper(self) -> Array: ...

    def predict(self, theta: Array) -> Array: ...

    def jacobian(self, theta: Array) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Minimum:
    """A law's minimum on points: theta [P] for responses [n] under a Huber threshold."""

    surface: Surface
    target: Array
    theta: Array
    huber_delta: float

    @cached_property
    def vector(self) -> Array:
        """Parameters [P] in the order of `law.parameters`, in the law's own units."""
        return np.asarray(self.surface.natural(self.theta[None])[0])

    @property
    def parameters(self) -> dict[str, float]:
        return dict(zip(self.surface.law.parameters, map(float, self.vector), strict=True))

    @property
    def misses(self) -> Array:
        """Predicted minus given responses, [n]."""
        return np.asarray(self.surface.predict(self.theta[None])[0] - self.target)

    @property
    def objective(self) -> float:
        """The sum of Huber losses."""
        return float(huber(self.misses, self.huber_delta).sum())


FEWEST_PER_AXIS, MOST_PER_AXIS = 6, 60  # cells of the grid over one exponent
MOST_AXES = 5  # exponents of a product grid; more are drawn evenly, for a grid would have too many cells
STARTS = (4, 5, 12, 16)  # descents for 1, 2, 3, and more exponents


def huber(residuals: Array, delta: float | Array) -> Array:
    """Returns r^2/2 for |r| <= delta, delta (|r| - delta/2) beyond it (Huber 1964), elementwise."""
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def rms(values: Array) -> float:
    """Returns the root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def exponent_grid(law: Law, cells: int = 400) -> Array:
    """Returns exponents [about `cells`, Q]: a product grid inside the bounds, even in logarithms of positive ones.
    Of more exponents than `MOST_AXES`, Sobol's points, as many as a grid of that many would have."""
    if (number := len(law.nonlinear)) > MOST_AXES:
        shares = qmc.Sobol(number, scramble=False).random_base2(round(np.log2(FEWEST_PER_AXIS**MOST_AXES)))
        columns = zip(law.nonlinear.values(), shares.T, strict=True)
        return np.stack([_between(*ends, share) for ends, share in columns], 1)
    per_axis = min(MOST_PER_AXIS, max(FEWEST_PER_AXIS, round(cells ** (1 / len(law.nonlinear)))))
    axes = [
        (np.geomspace if low > 0 else np.linspace)(low, high, per_axis + 2)[1:-1]
        for low, high in law.nonlinear.values()
    ]
    return np.array(list(itertools.product(*axes)))


def _between(low: float, high: float, share: Array) -> Array:
    """What lies at a share of the way from one end to the other: in logarithms, where both are positive."""
    share = 0.02 + 0.96 * share
    return np.asarray(low * (high / low) ** share if low > 0 else low + (high - low) * share)


def _places(law: Law, exponents: Array) -> Array:
    """Returns exponents as distances: logarithms of positive ones, tenths of the range of the others."""
    columns = [
        np.log(column) if low > 0 else 10 * (column - low) / (high - low)
        for column, (low, high) in zip(exponents.T, law.nonlinear.values(), strict=True)
    ]
    return np.stack(columns, 1)


def nonnegative_least_squares(gram: Array, moment: Array) -> Array:
    """Minimises c'Gc/2 - m'c over c >= 0 [R, K] for a stack of G [R, K, K], positive semi-definite, and m [R, K].
    Every one of the 2^K - 1 sets of positive coefficients is tried, so the answer is exact, and cheap for K <= 5."""
    k = gram.shape[-1]
    best, best_value = np.zeros_like(moment), np.zeros(len(moment))
    ridge = 1e-13 * np.trace(gram, axis1=1, axis2=2)[:, None, None]
    for size in range(1, k + 1):
        for chosen in itertools.combinations(range(k), size):
            at = np.array(chosen)
            part = np.linalg.solve(gram[:, at[:, None], at] + ridge * np.eye(size), moment[:, at, None])[..., 0]
            value = -0.5 * np.einsum("rk,rk->r", part, moment[:, at])
            better = (part >= 0).all(1) & (value < best_value)
            best_value = np.where(better, value, best_value)
            candidate = np.zeros_like(moment)
            candidate[:, at] = part
            best = np.where(better[:, None], candidate, best)
    return best


def profile(
    surface: Surface, target: Array, exponents: Array, delta: float, weights: Array | None = None, rounds: int = 2
) -> tuple[Array, Array]:
    """For each row of exponents [R, Q], fits the coefficients; returns theta [R, P] and the Huber objective [R].

    Relative errors stand in for log residuals (equal to first order), so each round is a weighted linear least squares.
    """
    given = np.ones(len(target)) if weights is None else weights
    columns, _ = surface.columns(exponents)
    if surface.law.logarithmic:
        aim = surface.emphasis
        columns = columns * (aim / np.exp(target / aim - surface.log_unit))
    else:
        aim, columns = target, columns * surface.emphasis
    importance = np.broadcast_to(given, (len(exponents), len(target)))
    for _ in range(rounds):
        weighted = columns * importance[:, None]
        gram = weighted @ columns.transpose(0, 2, 1)
        coefficients = nonnegative_least_squares(gram, weighted @ aim)
        errors = np.einsum("rk,rkn->rn", coefficients, columns) - aim
        importance = given / np.maximum(np.abs(errors) / delta, 1)
    theta = np.concatenate([coefficients, exponents], 1)
    return theta, _objective(surface.predict(theta) - target, given, delta)


def minimise(
    surface: Responses,
    target: Array,
    start: Array,
    delta: float | Array,
    weights: Array | None = None,
    steps: int = 300,
    tolerance: float = 1e-15,
) -> tuple[Array, Array]:
    """Descends to a local minimum of the Huber objective from each start, inside the bounds; all starts at once.

    A Levenberg-Marquardt method with two curvatures of the Huber loss. Its true second derivative counts only the
    points within delta of the surface: a Newton step on it converges fast but, with few such points, is wild. The
    weights of iterated least squares bound the loss from above: their step always descends, slowly. The matrix is the
    first plus lambda times the second, lambda falling while steps succeed. Parameters at a bound that the gradient
    pushes outwards are held there.

    Args:
      target, start: responses [R, n] or [n], theta [R, P].
      delta: the Huber threshold, or one for each residual [n].
      weights: of the points, [R, n] or [n], each >= 0; equal without them.
      tolerance: a start is finished when a step promises less than this share of its objective.

    Returns theta [R, P] and the objectives [R], never above those of the starts.
    """
    theta = np.clip(start, surface.lower, surface.upper)
    target = np.broadcast_to(target, (len(theta), target.shape[-1]))
    weights = np.broadcast_to(1.0 if weights is None else weights, target.shape)
    value = _objective(surface.predict(theta) - target, weights, delta)
    damping = np.full(len(theta), 0.1)
    open_ = np.flatnonzero(np.isfinite(value))
    for _ in range(steps):
        if not len(open_):
            break
        at, aim, count, lam = theta[open_], target[open_], weights[open_], damping[open_]
        step, promise = _step(surface, at, aim, count, delta, lam)
        trial = np.clip(at + step, surface.lower, surface.upper)
        trial_value = _objective(surface.predict(trial) - aim, count, delta)
        gain = value[open_] - trial_value
        accept = gain > 0  # False for NaN and for infinity, too
        theta[open_[accept]], value[open_[accept]] = trial[accept], trial_value[accept]
        damping[open_] = np.where(accept, lam * np.where(gain > 0.7 * promise, 0.2, 1.0), lam * 6)
        still = (promise > tolerance * value[open_]) & (damping[open_] < 1e12)
        open_ = open_[still]
    return theta, value


def _objective(residuals: Array, weights: Array, delta: float | Array) -> Array:
    """Sums of Huber losses [R]; a point of weight 0 counts nothing, be it infinitely far off."""
    with np.errstate(invalid="ignore"):
        return np.where(weights > 0, weights * huber(residuals, delta), 0.0).sum(1)


def _step(
    surface: Responses, theta: Array, target: Array, weights: Array, delta: float | Array, damping: Array
) -> tuple[Array, Array]:
    """Returns the damped step [R, P] and the decrease [R] that the quadratic model promises for it."""
    predicted, jacobian = surface.jacobian(theta)
    residuals = np.where(weights > 0, predicted - target, 0.0)
    size = np.abs(residuals)
    slackened = weights / np.maximum(size / delta, 1)
    curvature = weights * (size <= delta) + damping[:, None] * slackened
    gradient = (jacobian @ (slackened * residuals)[..., None])[..., 0]
    matrix = (jacobian * curvature[:, None]) @ jacobian.transpose(0, 2, 1)
    free = free_parameters(surface, theta, gradient)
    matrix = np.where(free[:, :, None] & free[:, None, :], matrix, 0.0)
    diagonal = np.einsum("rpp->rp", matrix)
    diagonal += np.where(free, 1e-13 * diagonal.max(1, keepdims=True) + 1e-300, 1.0)
    step = -np.linalg.solve(matrix, np.where(free, gradient, 0.0)[..., None])[..., 0]
    return step, -0.5 * np.einsum("rp,rp->r", step, np.where(free, gradient, 0.0))


def free_parameters(surface: Responses, theta: Array, gradient: Array) -> Array:
    """Returns which parameters [R, P] are not held at a bound by a gradient that pushes outwards."""
    return ~(((theta <= surface.lower) & (gradient > 0)) | ((theta >= surface.upper) & (gradient < 0)))


def anneal(
    surface: Surface, target: Array, start: Array, delta: float, weights: Array | None = None
) -> tuple[Array, Array]:
    """`minimise` with a wide Huber threshold first, narrowed about tenfold at a time: fewer starts end in a crease."""
    widest = float(np.abs(surface.predict(start) - target).max())
    if widest > delta:
        stages = 1 + int(np.ceil(np.log10(widest / delta)))
        for threshold in np.geomspace(widest, delta, stages)[:-1]:
            start, _ = minimise(surface, target, start, float(threshold), weights, steps=30, tolerance=1e-3)
    return minimise(surface, target, start, delta, weights)


def find_minimum(
    surface: Surface, target: Array, delta: float, weights: Array | None = None, starts: int | None = None
) -> tuple[Array, Array, Array]:
    """Searches the exponents globally, then descends from the best few cells of the grid that are not neighbours.

    For responses and weights [n]; S = `starts` descents, by default more, the more exponents there are. Returns the
    minimum theta [P]; where the descents began, [S, P]; the objectives they reached, [S].
    """
    grid = exponent_grid(surface.law)
    per_batch = max(1, 400_000 // len(target))
    parts = [profile(surface, target, grid[i : i + per_batch], delta, weights) for i in range(0, len(grid), per_batch)]
    theta, values = map(np.concatenate, zip(*parts, strict=True))
    starts = starts or STARTS[min(len(surface.law.nonlinear), len(STARTS)) - 1]
    begun = theta[_apart(_places(surface.law, grid), values, starts)]
    reached, objectives = anneal(surface, target, begun, delta, weights)
    return reached[np.argmin(objectives)], begun, objectives


def _apart(places: Array, values: Array, count: int) -> list[int]:
    """Returns the indices of the lowest values, passing over places within .2 in every axis of one already taken."""
    taken: list[int] = []
    for i in np.argsort(values):
        if not taken or (np.abs(places[taken] - places[i]).max(1) > 0.2).all():
            taken.append(int(i))
        if len(taken) == count:
            break
    return taken
