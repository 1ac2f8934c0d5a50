# SPDX-License-Identifier: Apache-2.0
"""What a scaling law is made of, so that fitter, intervals, plots and report work on any of them.

A law predicts a loss as a sum of columns with coefficients >= 0, the columns shaped by a few exponents:

    loss = sum_k  c_k * column_k(variables; exponents)

For fixed exponents that is linear, which is what makes a global search cheap (see `solver`). A new law is one
declaration; `catalogue` holds ours:

    TIED = Law(
        name="chinchilla_tied",
        formula="E + A / params^alpha + B / tokens^alpha",
        variables=("params", "tokens"),
        linear=("E", "A", "B"),
        nonlinear={"alpha": (0.01, 3.0)},
        columns=lambda v, x: (1.0, v["params"] ** -x["alpha"], v["tokens"] ** -x["alpha"]),
    )
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from t5x_like.errors import UserError

Array = np.ndarray
Values = Mapping[str, Any]
Columns = Callable[[Values, Values], tuple[Any, ...]]
Allocation = Callable[[Values], tuple[Any, Any]]
Target = Literal["loss", "accuracy", "learning_rate", "batch_tokens", "transferred_data", "true_reward"]
Change = Callable[[Values, Values], dict[str, Any]]


@dataclass(frozen=True)
class Coordinates:
    """How a law is searched where its printed parameters would not do: some have units, such as C0 in FLOPs.

    The search sees every variable divided by its geometric mean over the points, so that one range fits all data; its
    own parameters are the law's `linear` and `nonlinear`. These two functions translate; `units` is {variable: what it
    was divided by}.
    """

    parameters: tuple[str, ...]  # the names in print
    to_search: Change  # (printed parameters, units) -> searched parameters
    from_search: Change  # (searched parameters, units) -> printed parameters
    shared: Mapping[str, str] = field(default_factory=dict)  # variable -> the variable whose unit it shares
    signed: tuple[str, ...] = ()  # printed parameters that may be negative


@dataclass(frozen=True)
class Law:
    """One scaling law.

    `columns` takes (variables, exponents) to one array, or the number 1.0, per coefficient. They must be positive, and
    written with NumPy operators only: derivatives are taken by a complex step through them, exact to rounding.
    `allocation` takes parameters to (G, a) such that params = G (C/6)^a minimises the loss under C = 6 params tokens.
    """

    name: str  # what `--law=` and `fit.json` call it
    formula: str  # the law in one line, for people, in its printed parameters
    variables: tuple[str, ...]  # the columns of the points it reads; "compute" is 6 params tokens
    linear: tuple[str, ...]  # names of the coefficients, each >= 0, in the order of `columns`
    nonlinear: Mapping[str, tuple[float, float]]  # ends of the search; in logarithms where both are positive
    columns: Columns
    allocation: Allocation | None = None  # None where the law has no such closed form
    coordinates: Coordinates | None = None  # how it is searched, if not in its printed parameters
    target: Target = "loss"  # what it predicts; an accuracy is always fitted as it is
    residual: str = "log"  # how losses are compared: "log" (Hoffmann et al. 2022) or "raw" (Gadre et al. 2024)
    distinct: Mapping[str, int] = field(default_factory=dict)  # how many values of a variable there must be, if not 3
    check: Callable[[Mapping[str, Array]], str | None] | None = None  # variables -> why they cannot determine the law
    source: str = ""  # the paper

    @property
    def relative(self) -> bool:
        """Whether what it predicts is missed by a share of it; an accuracy is missed by a difference."""
        return self.target != "accuracy"

    @property
    def logarithmic(self) -> bool:
        """Whether logarithms are compared."""
        return self.relative and self.residual == "log"

    @property
    def searched(self) -> tuple[str, ...]:
        """Names of what the solver varies: coefficients first, then exponents."""
        return (*self.linear, *self.nonlinear)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the printed parameters. Every vector of natural parameters has this order."""
        return self.coordinates.parameters if self.coordinates else self.searched

    @property
    def signed(self) -> tuple[str, ...]:
        """Names of the parameters that may be negative."""
        if self.coordinates:
            return self.coordinates.signed
        return tuple(name for name, (low, _) in self.nonlinear.items() if low < 0)

    def predict(self, parameters: Values, variables: Values) -> Array:
        """Returns the loss for printed parameters and variables, broadcast against each other.
        Raises UserError: a parameter or a variable is missing."""
        for given, wanted, what in (
            (parameters, self.parameters, "parameter"),
            (variables, self.variables, "variable"),
        ):
            if absent := [name for name in wanted if name not in given]:
                raise UserError(
                    f"law {self.name!r} needs the {what} {absent[0]!r}; given: {', '.join(given) or 'none'}"
                )
        if self.coordinates:
            parameters = self.coordinates.to_search(parameters, dict.fromkeys(self.variables, 1.0))
        columns = self.columns(variables, {name: parameters[name] for name in self.nonlinear})
        return np.asarray(sum(parameters[name] * column for name, column in zip(self.linear, columns, strict=True)))

    def named(self, vectors: Array) -> dict[str, Array]:
        """Splits printed parameter vectors [..., P] into {name: [...]}."""
        return {name: vectors[..., i] for i, name in enumerate(self.parameters)}

    def vector(self, parameters: Values) -> Array:
        """Returns {name: value} as a vector [P]."""
        return np.array([float(parameters[name]) for name in self.parameters])


def complete(variables: Values) -> dict[str, Any]:
    """Adds compute, 6 params tokens FLOPs, where it is not given and follows."""
    known = dict(variables)
    if "compute" not in known and "params" in known and "tokens" in known:
        known["compute"] = 6.0 * np.asarray(known["params"], float) * np.asarray(known["tokens"], float)
    return known


# --- Powers of a sum, (A N^-alpha + B D^-beta)^k ---------------------------------------------------------------------

# The search writes one S (w n^-alpha + (1 - w) d^-beta)^k with n and d in units of their geometric means: S is linear,
# and the balance ln(w / (1 - w)) is of order one in any data.

EXPONENT = (0.01, 3.0)
BALANCE = (-8.0, 8.0)  # one term is between .03 % and 99.97 % of the sum in the middle of the points


def log_weights(balance: Any) -> tuple[Any, Any]:
    """Returns ln w and ln(1 - w) for balance = ln(w / (1 - w))."""
    return -np.log1p(np.exp(-balance)), -np.log1p(np.exp(balance))


def log_sum(left: Any, right: Any) -> Any:
    """ln(e^left + e^right), also of complex numbers, without overflow."""
    top = np.where(np.real(left) > np.real(right), left, right)
    with np.errstate(invalid="ignore"):
        total = top + np.log(np.exp(left - top) + np.exp(right - top))
    return np.where(np.isfinite(np.real(top)), total, top)


def sum_to_power(v: Values, balance: Any, alpha: Any, beta: Any, k: Any) -> Any:
    """(w params^-alpha + (1 - w) tokens^-beta)^k."""
    by_params, by_tokens = log_weights(balance)
    return np.exp(k * log_sum(by_params - alpha * np.log(v["params"]), by_tokens - beta * np.log(v["tokens"])))


def balanced(
    parameters: tuple[str, ...],
    exponents: Callable[[Values], tuple[Any, Any, Any]],
    sizes: tuple[str, str] = ("A", "B"),
    root: bool = False,
    shared: Mapping[str, str] | None = None,
) -> Coordinates:
    """(A N^-alpha + B D^-beta)^k searched by its size S, in the middle of the points, and the balance of its terms.

    Args:
      parameters: the printed ones.
      exponents: parameters -> (alpha, beta, k).
      sizes: what A and B are called.
      root: whether A^(1 / alpha) is printed, as Kaplan's Nc is, rather than A.
      shared: as in `Coordinates`.
    """

    def to_search(p: Values, units: Values) -> dict[str, Any]:
        alpha, beta, k = exponents(p)
        with np.errstate(divide="ignore"):
            log_a, log_b = np.log(p[sizes[0]]) * (alpha if root else 1), np.log(p[sizes[1]])
        left, right = log_a - alpha * np.log(units["params"]), log_b - beta * np.log(units["tokens"])
        return {**p, "S": np.exp(k * log_sum(left, right)), "balance": left - right}

    def from_search(x: Values, units: Values) -> dict[str, Any]:
        alpha, beta, k = exponents(x)
        by_params, by_tokens = log_weights(x["balance"])
        with np.errstate(divide="ignore"):
            size = np.log(x["S"]) / k
        log_a = by_params + size + alpha * np.log(units["params"])
        log_b = by_tokens + size + beta * np.log(units["tokens"])
        return {**x, sizes[0]: np.exp(log_a / (alpha if root else 1)), sizes[1]: np.exp(log_b)}

    return Coordinates(parameters, to_search, from_search, shared or {})
