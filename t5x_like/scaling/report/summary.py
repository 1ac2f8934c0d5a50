# SPDX-License-Identifier: Apache-2.0
"""A fit in words: the sentences and figures that the terminal and the report share."""

import re
from typing import Any

from t5x_like.reporting.wording import count, figure, percent, span
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.pairs import Pair


def equation(fit: Fit) -> str:
    """Returns the law with its numbers, such as `1.82 + 478 / params^0.347 + 2,143 / tokens^0.367`."""
    text = fit.law.formula
    for name in sorted(fit.parameters, key=len, reverse=True):
        text = re.sub(rf"\b{name}\b", figure(fit.parameters[name], 4), text)
    return text


def parameter_rows(fit: Fit) -> list[tuple[str, str, str]]:
    """Returns (name, estimate, interval) per parameter, then the compute-optimal exponents a and b."""
    rows = [(name, figure(v, 4), span(fit.intervals.get(name))) for name, v in fit.parameters.items()]
    optimal = fit.compute_optimal
    if optimal:
        rows += [(name, figure(optimal[name]), span(optimal["intervals"].get(name))) for name in ("a", "b")]
    return rows


def findings(fit: Fit) -> list[str]:
    """Returns what the fit says, a sentence each, most important first."""
    return [*_allocation(fit), *_holdout(fit), _residuals(fit), *_entropy(fit), *_overestimates(fit)]


def _allocation(fit: Fit) -> list[str]:
    optimal = fit.compute_optimal
    if not optimal:
        return []
    a, b = figure(optimal["a"]), figure(optimal["b"])
    a += _brackets(optimal["intervals"].get("a"))
    rows = optimal["rows"]
    largest, furthest = next(row for row in rows if row["times_largest"] >= 0.999), rows[-1]
    return [
        f"Compute-optimal params grow as C^{a}, tokens as C^{b}.",
        f"At the largest compute used, {figure(largest['flops'])} FLOPs, the optimum is {_sizes(largest)}; at "
        f"{furthest['times_largest']:.0f} times that, {_sizes(furthest)}, for a loss of {figure(furthest['loss'], 4)}"
        f"{_brackets(furthest.get('intervals', {}).get('loss'), 4)} nats per token.",
    ]


def _sizes(row: dict[str, Any]) -> str:
    ratio = figure(row["tokens_per_param"])
    return f"{count(row['params'])} params on {count(row['tokens'])} tokens ({ratio} per param)"


def _brackets(pair: Pair | None, digits: int = 3) -> str:
    return "" if pair is None else f" ({figure(pair[0], digits)} to {figure(pair[1], digits)})"


def _holdout(fit: Fit) -> list[str]:
    held = fit.holdout
    if not held:
        return []
    rms, mean, worst = (held[f"{name}_relative_error"] for name in ("rms", "mean", "worst"))
    return [
        f"The {held['points']} points of highest compute, predicted from the others: {percent(rms)} rms error, "
        f"{percent(mean, signed=True)} on average, {percent(worst, signed=True)} at worst."
    ]


def _residuals(fit: Fit) -> str:
    return f"Residuals: {percent(fit.residual_rms)} rms over {len(fit.points)} points."


def _entropy(fit: Fit) -> list[str]:
    exact = fit.points.exact_entropy
    if exact is None or "E" not in fit.parameters:
        return []
    ours = fit.parameters["E"]
    estimate = f"E is {figure(ours, 4)}{_brackets(fit.intervals.get('E'), 4)}"
    return [f"{estimate}; the exact entropy of the source is {figure(exact, 4)} nats per token ({ours - exact:+.3f})."]


def _overestimates(fit: Fit) -> list[str]:
    found = fit.analyses.get("overestimates")
    if not found:
        return []
    moved = ", ".join(
        f"{name} {figure(was)} to {figure(fit.parameters[name])}" for name, was in found["parameters_evenly"].items()
    )
    return [
        f"The penalty on overestimates leaves {found['points_above']} of {len(fit.points)} points above the law "
        f"(even weights: {found['points_above_evenly']}) and moves {moved}."
    ]
