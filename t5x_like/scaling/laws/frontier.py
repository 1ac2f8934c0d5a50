# SPDX-License-Identifier: Apache-2.0
"""Compute-optimal sizes: the parameters and tokens that a law says lower the loss most for C = 6 params tokens FLOPs.

For L = E + A/N^alpha + B/D^beta the minimum is a power law (Hoffmann et al. 2022, equation 4):

    N* = G (C/6)^a,  D* = (C/6)^b / G,  G = (alpha A / (beta B))^(1/(alpha+beta)),  a = beta/(alpha+beta),  b = 1 - a

A law without such a closed form is searched along each budget, and `a` is its slope d ln N* / d ln C there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.scaling.laws.laws import Law, complete
from t5x_like.scaling.pairs import Function, Intervals, Pair, pair

Array = np.ndarray

FRESH = {"unique_tokens": np.inf}  # what a law that discounts repeats reads when there are none
OUTPUTS = ("params", "tokens", "loss", "tokens_per_param")
_GOLDEN, _HALVINGS, _SLOPE = (np.sqrt(5) - 1) / 2, 70, 1.05
BEYOND = 30.0  # rows go this far beyond the largest budget used; further out the intervals say little


@dataclass(frozen=True)
class Frontier:
    """Optimal allocations of parameter vectors [..., P] at budgets [c]: params, tokens, loss [..., c]; a, b [...]."""

    flops: Array
    params: Array
    tokens: Array
    loss: Array
    a: Array
    b: Array


def can_share(law: Law) -> bool:
    """Whether the law can be asked how to share compute between params and tokens, all data being fresh."""
    return law.target == "loss" and {"params", "tokens"} <= set(law.variables) <= {"params", "tokens", *FRESH}


def frontier(law: Law, parameters: Array, flops: Array) -> Frontier:
    """Returns the compute-optimal params, tokens and loss; NaN or infinite where a replicate has no optimum.
    For parameters [..., P] in the order of `law.parameters`, of a law that `can_share`, at budgets [c]."""
    assert can_share(law)
    named = {name: value[..., None] for name, value in law.named(parameters).items()}
    with np.errstate(all="ignore"):
        if law.allocation is not None:
            scale, a = law.allocation(law.named(parameters))
            params = scale[..., None] * (flops / 6) ** a[..., None]
        else:
            middle = np.exp(np.log(flops).mean(keepdims=True))
            low, high = (_search(law, named, middle * step)[..., 0] for step in (1 / _SLOPE, _SLOPE))
            a = np.log(high / low) / (2 * np.log(_SLOPE))
            params = _search(law, named, flops)
        tokens = flops / 6 / params
        loss = _loss(law, named, params, flops)
    return Frontier(flops, params, tokens, loss, a, 1 - a)


def _loss(law: Law, named: dict[str, Array], params: Array, flops: Array) -> Array:
    return law.predict(named, {**FRESH, "params": params, "tokens": flops / 6 / params})


def _search(law: Law, named: dict[str, Array], flops: Array) -> Array:
    """Golden-section search over ln params at each budget; NaN where the loss falls all the way to an end."""
    shape = np.broadcast_shapes(*(value.shape for value in named.values()), flops.shape)
    low, high = np.zeros(shape), np.broadcast_to(np.log(flops / 6), shape).copy()
    for _ in range(_HALVINGS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        falls = _loss(law, named, np.exp(left), flops) > _loss(law, named, np.exp(right), flops)
        low, high = np.where(falls, left, low), np.where(falls, high, right)
    found = (low + high) / 2
    inside = (found > 0.01) & (found < np.log(flops / 6) - 0.01)
    return np.where(inside, np.exp(found), np.nan)


def budgets(compute: Array, rows: int = 13) -> Array:
    """Returns budgets [rows] from the smallest compute used to `BEYOND` times the largest, which is among them."""
    low, high = float(compute.min()), float(compute.max())
    beyond = max(2, round((rows - 1) * np.log(BEYOND) / np.log(BEYOND * high / low)))
    within = np.geomspace(low, high, max(2, rows - beyond)) if high > low else np.array([high])
    return np.concatenate([within, np.geomspace(high, BEYOND * high, beyond + 1)[1:]])


def compute_optimal(
    law: Law, estimate: Array, spread: Intervals | None, compute: Array, largest: float | None = None
) -> dict[str, Any] | None:
    """Returns fit.json's `compute_optimal`: a, b, and rows of flops, params, tokens, loss, with intervals by `spread`.

    None for a law that does not share compute, or parameters [P] whose optimum does not exist (A or B at zero).
    `compute` are the FLOPs of the points, [n], or budgets to give rows for, with the largest of the points beside them.
    """
    if not can_share(law):
        return None
    flops = budgets(compute) if largest is None else compute
    most = float(compute.max()) if largest is None else largest
    best = frontier(law, estimate, flops)
    if not (np.isfinite(best.params).all() and np.isfinite(best.loss).all() and (best.params > 0).all()):
        return None
    low, high = spread.of(optimum(law, flops).of) if spread else (None, None)
    rows = []
    for i, budget in enumerate(flops):
        row: dict[str, Any] = {"flops": float(budget), "times_largest": float(budget / most)}
        row |= {name: float(getattr(best, name)[i]) for name in ("params", "tokens", "loss")}
        row["tokens_per_param"] = row["tokens"] / row["params"]
        if low is not None and high is not None:
            places = {name: 1 + j * len(flops) + i for j, name in enumerate(OUTPUTS)}
            row["intervals"] = {name: pair(low[at], high[at]) for name, at in places.items()}
        rows.append(row)
    intervals: dict[str, Pair] = {}
    if low is not None and high is not None:
        intervals = {"a": pair(low[0], high[0]), "b": pair(1 - high[0], 1 - low[0])}
    return {"a": float(best.a), "b": float(best.b), "intervals": intervals, "rows": rows}


# --- What a fit is asked for besides its parameters ------------------------------------------------------------------


@dataclass(frozen=True)
class Quantities:
    """m named functions of a law's parameters."""

    names: tuple[str, ...]  # m of them
    of: Function  # printed parameters [..., P] -> values [..., m]


def optimum(law: Law, flops: Array) -> Quantities:
    """The exponent a, then each of `OUTPUTS` at the optimum of each budget [c]."""

    def of(vectors: Array) -> Array:
        best = frontier(law, vectors, flops)
        with np.errstate(all="ignore"):
            columns = [best.params, best.tokens, best.loss, best.tokens / best.params]
        return np.concatenate([best.a[..., None], *columns], -1)

    return Quantities(("a", *(f"{name} at {budget:.3g} FLOPs" for name in OUTPUTS for budget in flops)), of)


def prediction(law: Law, variables: Mapping[str, Any]) -> Quantities:
    """The law's loss at variables that broadcast to [m]."""
    known = {name: np.asarray(value, float) for name, value in complete(variables).items()}
    m = len(np.broadcast_arrays(*(np.atleast_1d(known[name]) for name in law.variables if name in known))[0])

    def of(vectors: Array) -> Array:
        named = {name: value[..., None] for name, value in law.named(vectors).items()}
        return np.broadcast_to(law.predict(named, known), (*vectors.shape[:-1], m))

    return Quantities(tuple(f"loss {i}" for i in range(m)), of)


def standard(law: Law, variables: Mapping[str, Array]) -> Quantities:
    """What is usually asked, by the points' variables [n]: the parameters; the optimum at 10 times the largest compute;
    the loss at the largest cell."""
    parts = [Quantities(law.parameters, lambda vectors: vectors)]
    known = complete(variables)
    if can_share(law):
        parts.append(optimum(law, np.array([10 * known["compute"].max()])))
    last = prediction(law, {name: np.array([known[name].max()]) for name in law.variables})
    parts.append(Quantities(("loss at the largest " + " and ".join(law.variables),), last.of))
    return Quantities(
        tuple(name for part in parts for name in part.names),
        lambda vectors: np.concatenate([part.of(vectors) for part in parts], -1),
    )
