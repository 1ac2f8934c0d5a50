# SPDX-License-Identifier: Apache-2.0
"""A fit in words: the sentences and figures that the terminal and the report share."""

import math
import re
from typing import Any

from t5x_like.reporting.wording import count, figure, percent, span
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.pairs import Pair

RESIDUAL, LARGEST, WIDTH = 0.01, 0.02, 0.2
AT_BOUND = 0.05  # an interval that begins below this share of E does not tell it from 0


def equation(fit: Fit) -> str:
    """Returns the law with its numbers, such as `1.82 + 478 / params^0.347 + 2,143 / tokens^0.367`."""
    text = fit.law.formula
    for name in sorted(fit.parameters, key=len, reverse=True):
        text = re.sub(rf"\b{name}\b", figure(fit.parameters[name], 4), text)
    return text


def parameter_rows(fit: Fit) -> list[tuple[str, str, str]]:
    """Returns (name, estimate, interval) per parameter, then the compute-optimal exponents a and b."""
    rows = [(name, figure(v, 4), span(fit.intervals.get(name))) for name, v in fit.parameters.items()]
    if optimal := fit.compute_optimal:
        rows += [(name, figure(optimal[name]), span(optimal["intervals"].get(name))) for name in ("a", "b")]
    return rows


def findings(fit: Fit) -> list[str]:
    """Returns what the fit says, a sentence each, most important first."""
    return [standing(fit), *_allocation(fit), *_holdout(fit), _residuals(fit), *_entropy(fit), *_overestimates(fit)]


def standing(fit: Fit) -> str:
    """What may be concluded from the fit, and what may not.

    A law to plan by misses its points by at most `RESIDUAL` and the largest ones, predicted from the others, by at most
    `LARGEST`; its E is not at its bound, and its exponents are known to within `WIDTH`, from end to end.
    """
    doubts = []
    if fit.residual_rms > RESIDUAL:
        missed = percent(fit.residual_rms)
        doubts.append(f"it misses its own points by {missed}, so smaller differences are not to be read off it")
    if fit.holdout and (rms := fit.holdout["rms_relative_error"]) > LARGEST:
        doubts.append(f"it misses the largest runs by {percent(rms)}, so nothing larger is to be planned by it")
    if "E" in fit.parameters and not _end(fit, "E", 0) > AT_BOUND * fit.parameters["E"]:
        doubts.append("E may be nothing, so the loss that no size or data removes is not known")
    wide = [name for name in fit.intervals if name.startswith(("alpha", "beta"))]
    wide = [name for name in wide if not _end(fit, name, 1) - _end(fit, name, 0) < WIDTH]
    if wide:
        known = " and ".join(f"{name} is anywhere in {span(fit.intervals[name])}" for name in wide)
        doubts.append(f"{known}, so how fast size or data pay is not known")
    if not doubts:
        tests = {"its residuals": True, "its errors on the largest runs": fit.holdout, "its intervals": fit.intervals}
        done, not_done = ([name for name, made in tests.items() if bool(made) == there] for there in (True, False))
        but = f"; {' and '.join(not_done)} were not asked" if not_done else ""
        return f"By {' and '.join(done)} the law stands{but}."
    return f"What may not be concluded: {'; '.join(doubts)}. What else is said here is the best description found."


def _end(fit: Fit, name: str, which: int) -> float:
    """An end of a parameter's interval, the estimate where none was made; NaN for one that is open."""
    ends = fit.intervals.get(name, (fit.parameters[name],) * 2)
    end = None if ends is None else ends[which]
    return math.nan if end is None else end


def _allocation(fit: Fit) -> list[str]:
    if not (optimal := fit.compute_optimal):
        return []
    a, b = figure(optimal["a"]) + _brackets(optimal["intervals"].get("a")), figure(optimal["b"])
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
    if not (held := fit.holdout):
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
    if not (found := fit.analyses.get("overestimates")):
        return []
    before = found["parameters_evenly"].items()
    moved = ", ".join(f"{name} {figure(was)} to {figure(fit.parameters[name])}" for name, was in before)
    return [
        f"The penalty on overestimates leaves {found['points_above']} of {len(fit.points)} points above the law "
        f"(even weights: {found['points_above_evenly']}) and moves {moved}."
    ]
