# SPDX-License-Identifier: Apache-2.0
"""Powers of a sum, (A N^-alpha + B D^-beta)^k, in the coordinates in which they are searched.

The search writes one S (w n^-alpha + (1 - w) d^-beta)^k with n and d in units of their geometric means: S is linear,
and the balance ln(w / (1 - w)) is of order one in any data.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from t5x_like.scaling.laws.laws import Coordinates, Values

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
