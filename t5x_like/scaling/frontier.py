# SPDX-License-Identifier: Apache-2.0
"""Compute-optimal sizes: the parameters and tokens that a law says lower the loss most for C = 6 params tokens FLOPs.

For L = E + A/N^alpha + B/D^beta the minimum is a power law (Hoffmann et al. 2022, equation 4):

    N* = G (C/6)^a,  D* = (C/6)^b / G,  G = (alpha A / (beta B))^(1/(alpha+beta)),  a = beta/(alpha+beta),  b = 1 - a
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from t5x_like.scaling.intervals import as_pair
from t5x_like.scaling.laws import Law

Array = np.ndarray

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


def frontier(law: Law, parameters: Array, flops: Array) -> Frontier:
    """Returns the compute-optimal params, tokens and loss; NaN or infinite where a replicate has no optimum.

    Args:
      law: one with an `allocation`.
      parameters: vectors [..., P] in the order of `law.parameters`.
      flops: budgets [c].
    """
    assert law.allocation is not None
    named = law.named(parameters)
    scale, a = law.allocation(named)
    with np.errstate(all="ignore"):
        params = scale[..., None] * (flops / 6) ** a[..., None]
        tokens = flops / 6 / params
        loss = law.predict({k: v[..., None] for k, v in named.items()}, {"params": params, "tokens": tokens})
    return Frontier(flops, params, tokens, loss, a, 1 - a)


def budgets(compute: Array, rows: int = 13) -> Array:
    """Returns budgets [rows] from the smallest compute used to `BEYOND` times the largest, which is among them."""
    low, high = float(compute.min()), float(compute.max())
    beyond = max(2, round((rows - 1) * np.log(BEYOND) / np.log(BEYOND * high / low)))
    within = np.geomspace(low, high, max(2, rows - beyond)) if high > low else np.array([high])
    return np.concatenate([within, np.geomspace(high, BEYOND * high, beyond + 1)[1:]])


def compute_optimal(law: Law, estimate: Array, draws: Array, compute: Array) -> dict[str, Any] | None:
    """Returns fit.json's `compute_optimal`: a, b, and rows of flops, params, tokens, loss, with intervals.

    Args:
      law: the law.
      estimate: parameters [P].
      draws: bootstrap replicates [R, P], which give the intervals; with none of them, no intervals.
      compute: the FLOPs of the points, [n].

    Returns:
      None for a law without a closed-form allocation, or a fit whose optimum does not exist (A or B at zero).
    """
    if law.allocation is None:
        return None
    flops = budgets(compute)
    best, replicates = frontier(law, estimate, flops), frontier(law, draws, flops)
    if not (np.isfinite(best.params).all() and np.isfinite(best.loss).all() and (best.params > 0).all()):
        return None
    known = len(draws) > 0
    rows = []
    for i, budget in enumerate(flops):
        row: dict[str, Any] = {"flops": float(budget), "times_largest": float(budget / compute.max())}
        row |= {name: float(getattr(best, name)[i]) for name in ("params", "tokens", "loss")}
        row["tokens_per_param"] = row["tokens"] / row["params"]
        if known:
            spread = {name: as_pair(getattr(replicates, name)[:, i]) for name in ("params", "tokens", "loss")}
            spread["tokens_per_param"] = as_pair(_ratio(replicates.tokens[:, i], replicates.params[:, i]))
            row["intervals"] = spread
        rows.append(row)
    intervals = {"a": as_pair(replicates.a), "b": as_pair(replicates.b)} if known else {}
    return {"a": float(best.a), "b": float(best.b), "intervals": intervals, "rows": rows}


def _ratio(numerator: Array, denominator: Array) -> Array:
    with np.errstate(all="ignore"):
        return numerator / denominator
