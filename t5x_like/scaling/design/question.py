# SPDX-License-Identifier: Apache-2.0
"""What a design is asked to narrow, and how an expected interval is told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.errors import UserError, unknown_name
from t5x_like.reporting.wording import figure
from t5x_like.scaling.laws import frontier, quantities
from t5x_like.scaling.laws.laws import Law

Array = np.ndarray

_PLACES = {"a": 0, "N*": 1, "D*": 2, "loss": 3, "tokens_per_param": 4}  # places in frontier.optimum
_SPELT = {"tokens_per_parameter": "tokens_per_param", "n_opt": "N*", "d_opt": "D*", "loss": "prediction"}


@dataclass(frozen=True)
class At:
    """Where a prediction is wanted: a cell, or the best cell of a compute."""

    flops: float
    params: float | None = None
    tokens: float | None = None


@dataclass(frozen=True)
class Question:
    """One quantity of a law.

    Attributes:
      name: what `--narrow` calls it.
      of: printed parameters [..., P] -> [..., 1].
      factor: whether its error is a factor (sizes, coefficients) rather than a sum (exponents, losses).
      at: where it is asked for, if that matters.
    """

    name: str
    of: Callable[[Array], Array]
    factor: bool
    at: At | None = None


@dataclass(frozen=True)
class Expectation:
    """What a design is expected to say: the value at the prior, its standard error, and its 95 % interval.

    For a factor, `error` and `half_width` are of the logarithm.
    """

    value: float
    error: float
    half_width: float
    factor: bool

    @property
    def low(self) -> float:
        return float(self.value * np.exp(-self.half_width)) if self.factor else max(0.0, self.value - self.half_width)

    @property
    def high(self) -> float:
        with np.errstate(over="ignore"):
            return float(self.value * np.exp(self.half_width) if self.factor else self.value + self.half_width)

    @property
    def within(self) -> str:
        """`± 0.021`, or `a factor of 1.31`."""
        if not self.factor:
            return f"± {figure(self.half_width, 2)}"
        return f"a factor of {figure(float(np.exp(min(self.half_width, 50.0))))}"

    def to_json(self) -> dict[str, Any]:
        high = self.high if np.isfinite(self.high) else None
        return {"value": self.value, "interval": [self.low, high], "half_width": self.half_width, "factor": self.factor}


def names(law: Law) -> list[str]:
    """What `--narrow` accepts for a law."""
    shared = ["a", "N*", "D*", "tokens_per_param"] if frontier.can_share(law) else []
    return list(dict.fromkeys([*law.parameters, *shared, "prediction"]))


def question(law: Law, name: str, at: At) -> Question:
    """Returns what `--narrow=name` asks.

    Raises:
      UserError: there is no such quantity.
    """
    known = names(law)
    spelt = name.strip().replace(" ", "_").replace("-", "_")
    spelt = _SPELT.get(spelt.lower(), spelt)
    spelt = next((one for one in known if one == spelt), next((o for o in known if o.lower() == spelt.lower()), spelt))
    if spelt not in known:
        raise unknown_name("--narrow", name, known)
    if spelt in law.parameters:
        place = law.parameters.index(spelt)
        factor = spelt != "E" and spelt not in law.nonlinear
        return Question(spelt, lambda vectors: vectors[..., place : place + 1], factor)
    if spelt == "prediction" and at.params is not None:
        of = quantities.prediction(law, {"params": np.array([at.params]), "tokens": np.array([at.tokens])}).of
        return Question(spelt, of, False, at)
    if not frontier.can_share(law):
        raise UserError(f"--narrow={name}: law {law.name!r} has no compute-optimal sizes; give --at=params:tokens")
    optimum = quantities.optimum(law, np.array([at.flops])).of
    place = _PLACES["loss" if spelt == "prediction" else spelt]
    factor = spelt in ("N*", "D*", "tokens_per_param")
    return Question(
        spelt, lambda vectors: optimum(vectors)[..., place : place + 1], factor, None if spelt == "a" else at
    )
