# SPDX-License-Identifier: Apache-2.0
"""A law on given points, in the coordinates that the solver works in.

Legend: R data sets or starts, n points, P parameters, K linear coefficients, Q exponents.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.laws.laws import Law, complete

Array = np.ndarray

SAME = 0.01  # logarithms closer than this count as one value: tokens are rounded to whole steps
_STEP = 1e-30  # of the complex-step derivative: no subtraction, so it may be as small as it likes


@dataclass(frozen=True)
class Surface:
    """A law on fixed points, in coordinates where every parameter is of order one.

    The solver's vector theta [R, P] holds the coefficients, each multiplied by the geometric mean of its column over
    the points and divided by the geometric mean of the losses, then the exponents. So coefficients are shares of a
    typical loss, and a change of exponent tilts a column about its middle instead of moving it by orders of magnitude.

    What is predicted and compared, the response, is the logarithm of a loss, or an accuracy or, where the law says so,
    a loss as it is, times `emphasis`.
    """

    law: Law  # the law
    variables: Mapping[str, Array]  # what it reads, each [n], divided by `units`
    units: Mapping[str, float]  # geometric means for a law with coordinates of its own, else 1
    log_unit: float  # logarithm of the geometric mean of the losses; 0 where they are compared as they are
    emphasis: Array  # [n], square roots of the points' weights

    @classmethod
    def over(cls, law: Law, variables: Mapping[str, Array], target: Array, emphasis: Array | None = None) -> "Surface":
        """Returns the law over variables [n] whose losses (or accuracies) are `target` [n], none of them checked."""
        units = dict.fromkeys(law.variables, 1.0)
        if law.coordinates:
            units = {name: float(np.exp(np.mean(np.log(variables[name])))) for name in law.variables}
            units |= {name: units[other] for name, other in law.coordinates.shared.items()}
        centred = {name: np.asarray(variables[name], float) / units[name] for name in law.variables}
        log_unit = float(np.mean(np.log(target))) if law.logarithmic else 0.0
        return cls(law, centred, units, log_unit, np.ones(len(target)) if emphasis is None else emphasis)

    @property
    def lower(self) -> Array:
        return np.array([0.0] * len(self.law.linear) + [low for low, _ in self.law.nonlinear.values()])

    @property
    def upper(self) -> Array:
        return np.array([np.inf] * len(self.law.linear) + [high for _, high in self.law.nonlinear.values()])

    def response(self, target: Array) -> Array:
        """Returns what `predict` is compared with, [..., n], for losses or accuracies [..., n]."""
        return self.emphasis * (np.log(target) if self.law.logarithmic else target)

    def _raw(self, exponents: Array, stepped: int | None = None) -> list[Array]:
        """The law's columns at exponents [R, Q]: K arrays [R, n], complex where they feel the imaginary step of one."""
        named = {name: exponents[:, q, None] for q, name in enumerate(self.law.nonlinear)}
        if stepped is not None:
            name = list(self.law.nonlinear)[stepped]
            named[name] = named[name] + 1j * _STEP
        return [np.asarray(column) for column in self.law.columns(self.variables, named)]

    def columns(self, exponents: Array) -> tuple[Array, Array]:
        """Returns columns [R, K, n] of geometric mean 1, and the logarithms [R, K] of what they were divided by.
        Columns of a law with coordinates of its own are of order one already, and stay."""
        shape = (len(exponents), len(next(iter(self.variables.values()))))
        raw = np.stack([np.broadcast_to(column, shape) for column in self._raw(exponents)], 1)
        if self.law.coordinates:
            return raw, np.zeros(raw.shape[:2])
        logs = np.log(raw)
        means = logs.mean(2)
        return np.exp(logs - means[..., None]), means

    def _sum(self, theta: Array) -> tuple[Array, Array]:
        """Returns columns [R, K, n], and the predicted loss over its unit [R, n]."""
        k = len(self.law.linear)
        columns, _ = self.columns(theta[:, k:])
        return columns, np.einsum("rk,rkn->rn", theta[:, :k], columns)

    def _respond(self, share: Array) -> Array:
        if not self.law.logarithmic:
            return self.emphasis * share
        with np.errstate(divide="ignore"):
            return self.emphasis * (np.log(share) + self.log_unit)

    def predict(self, theta: Array) -> Array:
        """Returns responses [R, n]; -inf where every coefficient is zero."""
        return self._respond(self._sum(theta)[1])

    def misses(self, theta: Array, response: Array) -> Array:
        """Returns log measured - log predicted [n] (measured - predicted of an accuracy) at theta [P]."""
        measured, predicted = response / self.emphasis, self.predict(theta[None])[0] / self.emphasis
        if self.law.relative and not self.law.logarithmic:
            return np.asarray(np.log(measured) - np.log(predicted))
        return np.asarray(measured - predicted)

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        """Returns responses [R, n] and their derivatives [R, P, n] by theta."""
        k = len(self.law.linear)
        columns, share = self._sum(theta)
        slopes = [columns]
        for q in range(theta.shape[1] - k):
            by_exponent = np.zeros_like(share)
            for i, column in enumerate(self._raw(theta[:, k:], stepped=q)):
                if np.iscomplexobj(column):
                    by_exponent += theta[:, i, None] * self._tilt(columns[:, i], column)
            slopes.append(by_exponent[:, None])
        slope = np.concatenate(slopes, 1) * self.emphasis
        return self._respond(share), slope / share[:, None] if self.law.logarithmic else slope

    def _tilt(self, column: Array, stepped: Array) -> Array:
        """The derivative of a column from its complex step; a normalised one keeps its geometric mean."""
        if self.law.coordinates:
            return stepped.imag / _STEP
        tilt = stepped.imag / (_STEP * stepped.real)
        return column * (tilt - tilt.mean(1, keepdims=True))

    def natural(self, theta: Array) -> Array:
        """Returns the law's printed parameters [..., P]."""
        k = len(self.law.linear)
        flat = theta.reshape(-1, theta.shape[-1])
        _, means = self.columns(flat[:, k:])
        searched = np.concatenate([flat[:, :k] * np.exp(self.log_unit - means), flat[:, k:]], 1)
        if self.law.coordinates:
            named = dict(zip(self.law.searched, searched.T, strict=True))
            printed = self.law.coordinates.from_search(named, self.units)
            searched = np.stack([printed[name] for name in self.law.parameters], 1)
        return searched.reshape(*theta.shape[:-1], searched.shape[1])

    def scaled(self, parameters: Array) -> Array:
        """Returns theta [R, P] for printed parameters: the inverse of `natural`."""
        k = len(self.law.linear)
        if self.law.coordinates:
            searched = self.law.coordinates.to_search(self.law.named(parameters), self.units)
            parameters = np.stack([searched[name] for name in self.law.searched], 1)
        _, means = self.columns(parameters[:, k:])
        return np.concatenate([parameters[:, :k] * np.exp(means - self.log_unit), parameters[:, k:]], 1)


def surface_of(law: Law, points: Points, emphasis: Array | None = None) -> Surface:
    """Returns the law on the points, or refuses points that cannot determine it.

    Raises UserError: a variable of the law is missing or not positive; too few points; losses all the same; fewer than
    three values of a variable; all points on one line of log params and log tokens, where exchanging the exponents
    leaves every prediction as it was.
    """
    variables = {name: _column(law, points, name) for name in law.variables}
    target = _column(law, points, law.target)
    needed = len(law.parameters) + 1
    if len(points) < needed:
        raise UserError(
            f"law {law.name!r} has {needed - 1} parameters and needs at least {needed} points, to leave an error bar; "
            f"{points.source} has {len(points)} usable"
        )
    if np.ptp(target) <= 1e-9 * np.abs(target).max():
        raise UserError(f"all {len(points)} values of {law.target} are the same: there is nothing for a law to follow")
    _refuse_a_poor_design(law, variables)
    if law.check and (reason := law.check(variables)):
        raise UserError(f"law {law.name!r} cannot be fitted to the {len(points)} points of {points.source}: {reason}")
    return Surface.over(law, variables, target, emphasis)


def _column(law: Law, points: Points, name: str) -> Array:
    """Returns a column that the law reads or predicts, in full and positive; an accuracy may be 0."""
    known = complete({**points.variables, "loss": points.loss})
    if name not in known:
        given = ", ".join(points.variables)
        text = " holds text" if name in points.columns else ""
        raise UserError(f"law {law.name!r} reads the column {name!r};{text} {points.source} has the numbers {given}")
    column = np.asarray(known[name], float)
    usable = np.isfinite(column) & ((column > 0) if name != "accuracy" else (column >= 0) & (column <= 1))
    if not usable.all():
        wanted = "a positive" if name != "accuracy" else "in [0, 1] an"
        raise UserError(f"law {law.name!r} needs {wanted} {name!r} in every row of {points.source}")
    return column


def _refuse_a_poor_design(law: Law, variables: dict[str, Array]) -> None:
    n = len(next(iter(variables.values())))
    spread = []
    for name, column in variables.items():
        wanted = law.distinct.get(name, 3)
        distinct = 1 + int((np.diff(np.sort(np.log(column))) > SAME).sum())
        if distinct < wanted:
            times = "one value" if distinct == 1 else "two values"
            raise UserError(
                f"all {n} points have only {times} of {name}; law {law.name!r} needs at least "
                f"{('one', 'two', 'three')[wanted - 1]}, to tell how fast the loss falls from where it ends"
            )
        if wanted >= 3:
            spread.append(name)
    if len(spread) < 2:
        return
    logs = np.stack([np.log(variables[name]) for name in spread], 1)
    width = np.linalg.svd(logs - logs.mean(0), compute_uv=False)[-1] / np.sqrt(n)
    if width < SAME:
        raise UserError(
            f"all {n} points lie on one line of log {' and log '.join(spread)} (such as tokens = k params): "
            f"what {' and '.join(spread)} do cannot be told apart; add cells that leave the line"
        )
