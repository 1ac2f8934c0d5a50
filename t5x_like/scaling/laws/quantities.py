# SPDX-License-Identifier: Apache-2.0
"""What a fit is asked for besides its parameters: functions of printed parameters [..., P] -> [..., m], with names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.scaling.laws import frontier
from t5x_like.scaling.laws.laws import Law, complete

Array = np.ndarray


@dataclass(frozen=True)
class Quantities:
    """m named functions of a law's parameters."""

    names: tuple[str, ...]  # m of them
    of: Callable[[Array], Array]  # printed parameters [..., P] -> values [..., m]


def prediction(law: Law, variables: Mapping[str, Any]) -> Quantities:
    """The law's loss at variables that broadcast to [m]."""
    known = {name: np.asarray(value, float) for name, value in complete(variables).items()}
    m = len(np.broadcast_arrays(*(np.atleast_1d(known[name]) for name in law.variables if name in known))[0])

    def of(vectors: Array) -> Array:
        named = {name: value[..., None] for name, value in law.named(vectors).items()}
        return np.broadcast_to(law.predict(named, known), (*vectors.shape[:-1], m))

    return Quantities(tuple(f"loss {i}" for i in range(m)), of)


def optimum(law: Law, flops: Array) -> Quantities:
    """The exponent a, then params, tokens, loss and tokens per parameter at the optimum of each budget [c]."""
    names = (f"{name} at {budget:.3g} FLOPs" for name in frontier.OUTPUTS for budget in flops)
    return Quantities(("a", *names), frontier.optimum(law, flops))


def standard(law: Law, variables: Mapping[str, Array]) -> Quantities:
    """What is usually asked: the parameters; the optimum at 10 times the largest compute; the loss at the largest cell.

    Args:
      law: the law.
      variables: of the points, each [n].
    """
    parts = [Quantities(law.parameters, lambda vectors: vectors)]
    known = complete(variables)
    if frontier.can_share(law):
        parts.append(optimum(law, np.array([10 * known["compute"].max()])))
    last = prediction(law, {name: np.array([known[name].max()]) for name in law.variables})
    parts.append(Quantities(("loss at the largest " + " and ".join(law.variables),), last.of))
    return Quantities(
        tuple(name for part in parts for name in part.names),
        lambda vectors: np.concatenate([part.of(vectors) for part in parts], -1),
    )
