# SPDX-License-Identifier: Apache-2.0
"""A law on given points, in the coordinates that the solver works in.

Legend: R data sets or starts, n points, P parameters, K linear coefficients, Q exponents.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.laws import Law
from t5x_like.scaling.points import Points

Array = np.ndarray

SAME = 0.01  # logarithms closer than this count as one value: tokens are rounded to whole steps
_STEP = 1e-30  # of the complex-step derivative: no subtraction, so it may be as small as it likes


@dataclass(frozen=True)
class Surface:
    """A law on fixed points, in coordinates where every parameter is of order one.

    The solver's vector theta [R, P] holds the coefficients, each multiplied by the geometric mean of its column over
    the points and divided by the geometric mean of the losses, then the exponents. So coefficients are shares of a
    typical loss, and a change of exponent tilts a column about its middle instead of moving it by orders of magnitude.
    """

    law: Law
    variables: Mapping[str, Array]
    log_unit: float  # logarithm of the geometric mean of the losses

    @classmethod
    def over(cls, law: Law, variables: Mapping[str, Array], loss: Array) -> "Surface":
        return cls(law, variables, float(np.mean(np.log(loss))))

    @property
    def lower(self) -> Array:
        return np.array([0.0] * len(self.law.linear) + [low for low, _ in self.law.nonlinear.values()])

    @property
    def upper(self) -> Array:
        return np.array([np.inf] * len(self.law.linear) + [high for _, high in self.law.nonlinear.values()])

    def _raw(self, exponents: Array, stepped: int | None = None) -> list[Array]:
        """The law's columns at exponents [R, Q]: K arrays [R, n], complex where they feel the imaginary step of one."""
        named = {name: exponents[:, q, None] for q, name in enumerate(self.law.nonlinear)}
        if stepped is not None:
            name = list(self.law.nonlinear)[stepped]
            named[name] = named[name] + 1j * _STEP
        return [np.asarray(column) for column in self.law.columns(self.variables, named)]

    def columns(self, exponents: Array) -> tuple[Array, Array]:
        """Returns columns [R, K, n] of geometric mean 1, and the logarithms [R, K] of what they were divided by."""
        shape = (len(exponents), len(next(iter(self.variables.values()))))
        logs = np.stack([np.broadcast_to(np.log(column), shape) for column in self._raw(exponents)], 1)
        means = logs.mean(2)
        return np.exp(logs - means[..., None]), means

    def predict(self, theta: Array) -> Array:
        """Returns log losses [R, n]; -inf where every coefficient is zero."""
        k = len(self.law.linear)
        columns, _ = self.columns(theta[:, k:])
        with np.errstate(divide="ignore"):
            return np.log(np.einsum("rk,rkn->rn", theta[:, :k], columns)) + self.log_unit

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        """Returns log losses [R, n] and their derivatives [R, P, n] by theta."""
        k = len(self.law.linear)
        columns, _ = self.columns(theta[:, k:])
        coefficients = theta[:, :k]
        loss = np.einsum("rk,rkn->rn", coefficients, columns)
        slopes = [columns]
        for q in range(theta.shape[1] - k):
            by_exponent = np.zeros_like(loss)
            for i, column in enumerate(self._raw(theta[:, k:], stepped=q)):
                if np.iscomplexobj(column):
                    tilt = column.imag / (_STEP * column.real)
                    by_exponent += coefficients[:, i, None] * columns[:, i] * (tilt - tilt.mean(1, keepdims=True))
            slopes.append(by_exponent[:, None])
        return np.log(loss) + self.log_unit, np.concatenate(slopes, 1) / loss[:, None]

    def natural(self, theta: Array) -> Array:
        """Returns the law's own parameters [R, P]."""
        k = len(self.law.linear)
        _, means = self.columns(theta[:, k:])
        return np.concatenate([theta[:, :k] * np.exp(self.log_unit - means), theta[:, k:]], 1)

    def scaled(self, parameters: Array) -> Array:
        """Returns theta [R, P] for the law's own parameters: the inverse of `natural`."""
        k = len(self.law.linear)
        _, means = self.columns(parameters[:, k:])
        return np.concatenate([parameters[:, :k] * np.exp(means - self.log_unit), parameters[:, k:]], 1)


def surface_of(law: Law, points: Points) -> Surface:
    """Returns the law on the points, or refuses points that cannot determine it.

    Raises:
      UserError: a variable of the law is missing or not positive; too few points; fewer than three values of a
        variable; all points on one line of log params and log tokens, where exchanging the exponents leaves every
        prediction as it was.
    """
    variables = {}
    for name in law.variables:
        if name not in points.variables:
            given = ", ".join(points.variables)
            raise UserError(f"law {law.name!r} reads the column {name!r}; {points.source} has {given}")
        variables[name] = points.variables[name]
        if not (np.isfinite(variables[name]) & (variables[name] > 0)).all():
            raise UserError(f"law {law.name!r} needs a positive {name!r} in every row of {points.source}")
    needed = len(law.parameters) + 1
    if len(points) < needed:
        raise UserError(
            f"law {law.name!r} has {needed - 1} parameters and needs at least {needed} points, to leave an error bar; "
            f"{points.source} has {len(points)} usable"
        )
    _refuse_a_poor_design(law, variables)
    return Surface.over(law, variables, points.loss)


def _refuse_a_poor_design(law: Law, variables: dict[str, Array]) -> None:
    logs = np.stack([np.log(column) for column in variables.values()], 1)
    for name, column in zip(variables, logs.T, strict=True):
        distinct = 1 + int((np.diff(np.sort(column)) > SAME).sum())
        if distinct < 3:
            times = "one value" if distinct == 1 else "two values"
            raise UserError(
                f"all {len(logs)} points have only {times} of {name}; law {law.name!r} needs at least three, to tell "
                "how fast the loss falls from where it ends"
            )
    if len(law.nonlinear) < 2 or len(variables) < 2:
        return
    width = np.linalg.svd(logs - logs.mean(0), compute_uv=False)[-1] / np.sqrt(len(logs))
    if width < SAME:
        raise UserError(
            f"all {len(logs)} points lie on one line of log {' and log '.join(variables)} (such as tokens = k params): "
            f"{' and '.join(law.nonlinear)} cannot be told apart; add cells that leave the line"
        )
