# SPDX-License-Identifier: Apache-2.0
"""Scaling laws, declared: what a law is made of, so that fitter, intervals, plots and report work on any of them.

A law predicts a loss as a sum of columns with coefficients >= 0, the columns shaped by a few exponents:

    loss = sum_k  c_k * column_k(variables; exponents)

For fixed exponents that is linear, which is what makes a global search cheap (see `solver`). A new law is one
declaration, added to `LAWS`:

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
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.errors import unknown_name

Array = np.ndarray
Columns = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, ...]]
Allocation = Callable[[Mapping[str, Any]], tuple[Any, Any]]


@dataclass(frozen=True)
class Law:
    """One scaling law.

    Attributes:
      name: what `--law=` and `fit.json` call it.
      formula: the law in one line, for people.
      variables: the columns of the points it reads; the fit works in their logarithms where it needs a design.
      linear: names of the coefficients, each >= 0, in the order of `columns`.
      nonlinear: exponent name -> (lowest, highest) value searched.
      columns: (variables, exponents) -> one array, or the number 1.0, per coefficient. Must be positive and written
        with NumPy operators only: derivatives are taken by a complex step through it, exact to rounding.
      allocation: parameters -> (G, a) such that params = G (C/6)^a minimises the loss under C = 6 params tokens; None
        where the law has no such closed form.
      source: the paper.
    """

    name: str
    formula: str
    variables: tuple[str, ...]
    linear: tuple[str, ...]
    nonlinear: dict[str, tuple[float, float]]
    columns: Columns
    allocation: Allocation | None = None
    source: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters: coefficients first, then exponents. Every parameter vector has this order."""
        return (*self.linear, *self.nonlinear)

    def predict(self, parameters: Mapping[str, Any], variables: Mapping[str, Any]) -> Array:
        """Returns the loss for named parameters and variables, broadcast against each other."""
        columns = self.columns(variables, {name: parameters[name] for name in self.nonlinear})
        return np.asarray(sum(parameters[name] * column for name, column in zip(self.linear, columns, strict=True)))

    def named(self, vectors: Array) -> dict[str, Array]:
        """Splits parameter vectors [..., P] into {name: [...]}."""
        return {name: vectors[..., i] for i, name in enumerate(self.parameters)}


def _chinchilla_allocation(p: Mapping[str, Any]) -> tuple[Any, Any]:
    """Hoffmann et al. 2022, equation 4: G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta)."""
    total = p["alpha"] + p["beta"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / total), p["beta"] / total


def _tied_allocation(p: Mapping[str, Any]) -> tuple[Any, Any]:
    return _chinchilla_allocation({**p, "beta": p["alpha"]})


EXPONENT = (0.01, 3.0)

CHINCHILLA = Law(
    name="chinchilla",
    formula="E + A / params^alpha + B / tokens^beta",
    variables=("params", "tokens"),
    linear=("E", "A", "B"),
    nonlinear={"alpha": EXPONENT, "beta": EXPONENT},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"], v["tokens"] ** -x["beta"]),
    allocation=_chinchilla_allocation,
    source="Hoffmann et al. 2022, approach 3",
)

TIED = Law(
    name="chinchilla_tied",
    formula="E + A / params^alpha + B / tokens^alpha",
    variables=("params", "tokens"),
    linear=("E", "A", "B"),
    nonlinear={"alpha": EXPONENT},
    columns=lambda v, x: (1.0, v["params"] ** -x["alpha"], v["tokens"] ** -x["alpha"]),
    allocation=_tied_allocation,
    source="Muennighoff et al. 2023, which ties the exponents",
)

LAWS = {law.name: law for law in (CHINCHILLA, TIED)}


def get_law(law: str | Law) -> Law:
    """Returns a law by name, or the law itself.

    Raises:
      UserError: no law has that name.
    """
    if isinstance(law, Law):
        return law
    if law not in LAWS:
        raise unknown_name("law", law, LAWS)
    return LAWS[law]
