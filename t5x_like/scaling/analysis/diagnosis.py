# SPDX-License-Identifier: Apache-2.0
"""What a careful colleague would say about a fit before anybody spends compute on it, as plain sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from t5x_like.reporting.wording import count, figure, percent
from t5x_like.scaling.fitting.certificate import FLAT
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.weights import robust_scale
from t5x_like.scaling.laws.frontier import BEYOND, can_share
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.pairs import Pair

Array = np.ndarray

_PLAIN = {"S": "the size of the power", "balance": "the balance of params and tokens"}
OUTLIER = 6.0  # robust standard deviations; a normal residual passes it once in 5e8
MISSED = 3.0  # held-out error over the residual of the fit, from which the law is the problem rather than noise
REPEATED = 4.0  # passes over the data up to which Muennighoff et al. 2023 see repeated tokens worth nearly fresh ones


def concerns(
    law: Law,
    points: Points,
    parameters: Mapping[str, float],
    intervals: Mapping[str, Pair],
    residuals: Array,
    certificate: Mapping[str, Any],
    optimal: Mapping[str, Any] | None,
    holdout: Mapping[str, Any] | None,
) -> list[str]:
    """Returns the warnings of a fit, those about the data first, then the fit, then what it is used for."""
    return [
        *points.warnings,
        *_about_data(law, points),
        *_about_design(law, points),
        *_about_residuals(law, points, residuals),
        *_about_minimum(certificate),
        *_about_parameters(law, parameters, intervals, certificate),
        *_about_frontier(law, points, optimal),
        *_about_extrapolation(holdout, residuals),
    ]


def _about_data(law: Law, points: Points) -> list[str]:
    found = []
    if len(points.fingerprints) > 1:
        found.append(
            f"The runs were trained on {len(points.fingerprints)} different corpora (fingerprints "
            f"{', '.join(print_[:12] for print_ in points.fingerprints)}): their losses are not comparable."
        )
    families = sorted({str(f) for f in points.columns.get("family", []) if f})
    if len(families) > 1:
        found.append(f"One law is fitted to {len(families)} model families together: {', '.join(families)}.")
    unique = points.columns.get("unique_tokens")
    if unique is not None and "unique_tokens" not in law.variables:
        passes = np.where(unique > 0, points.tokens / np.where(unique > 0, unique, 1), 1)
        repeated = int((passes > 1 + 1e-6).sum())
        if repeated:
            strong = f", beyond {REPEATED:g}, where repetition is known to cost" if passes.max() > REPEATED else ""
            found.append(
                f"{_points(repeated)} saw the same data more than once (up to {passes.max():.2g} times{strong}); "
                "the law takes every token as fresh."
            )
    return found


def _points(n: int) -> str:
    return "1 point" if n == 1 else f"{n} points"


def _about_design(law: Law, points: Points) -> list[str]:
    found = []
    n, p = len(points), len(law.parameters)
    if n <= p + 3:
        left = f"leave {n - p} to judge the noise by"
        found.append(f"{n} points for {p} parameters {left}: the intervals are rough themselves.")
    if not {"params", "tokens"} <= set(law.variables):
        return found
    correlation = float(np.corrcoef(np.log(points.params), np.log(points.tokens))[0, 1])
    if abs(correlation) > 0.95:
        found.append(
            f"Params and tokens rise together (correlation {correlation:.3f} of their logarithms), so the two "
            "exponents are hard to tell apart: add cells with other tokens per parameter."
        )
    return found


def _about_residuals(law: Law, points: Points, residuals: Array) -> list[str]:
    """Outliers, by a scale that leaves out as many points as a Huber fit may pass exactly through."""
    scale = robust_scale(residuals, len(law.parameters))
    if scale < 1e-12:
        return []
    far = np.flatnonzero(np.abs(residuals) > OUTLIER * scale)
    if not len(far):
        return []
    worst = far[np.argmax(np.abs(residuals[far]))]
    size, tokens = count(float(points.params[worst])), count(float(points.tokens[worst]))
    return [
        f"{_points(len(far))} {'lies' if len(far) == 1 else 'lie'} more than {OUTLIER:g} robust standard deviations "
        f"off the law; the worst is {percent(_miss(law, residuals[worst]), signed=True)}, at {size} params and "
        f"{tokens} tokens."
    ]


def _miss(law: Law, residual: float) -> float:
    """A residual as a share of the loss, or in accuracy."""
    return float(np.expm1(residual)) if law.target == "loss" else float(residual)


def _about_minimum(certificate: Mapping[str, Any]) -> list[str]:
    found = []
    second = certificate["second_method"]
    if not second["agrees"]:
        found.append(
            f"A second method ({second['name']}) ended at objective {second['objective']:.8g}, above this fit's: the "
            "minimum is not confirmed."
        )
    if certificate["condition_number"] > FLAT:
        direction = certificate["flattest_direction"]
        names = [_PLAIN.get(name, name) for name in sorted(direction, key=lambda name: -abs(direction[name]))[:2]]
        found.append(
            f"The points barely determine a combination of {' and '.join(names)} (condition number "
            f"{figure(certificate['condition_number'], 2)}): very different values of them fit almost as well."
        )
    return found


def _about_parameters(
    law: Law, parameters: Mapping[str, float], intervals: Mapping[str, Pair], certificate: Mapping[str, Any]
) -> list[str]:
    found = [
        f"{name} is at its bound ({bound}): the losses pull it further, so the law does not describe them well, and "
        "the other intervals are too narrow."
        if name in law.parameters and not law.coordinates
        else f"{_PLAIN.get(name, name)} is at the edge of the range searched: the points fit a simpler law as well."
        for bound in certificate["active_bounds"]
        for name in (bound.split(" = ")[0],)
    ]
    for name, (low, high) in intervals.items():
        limits = None if law.coordinates else law.nonlinear.get(name)
        if name in law.linear and low is not None and low <= 0 < parameters[name]:
            found.append(f"The interval of {name} reaches 0: the points do not exclude a law without it.")
        if limits and (low is None or high is None or low <= limits[0] or high >= limits[1]):
            edge = f"the edge of the range searched, {limits[0]:g} to {limits[1]:g}"
            found.append(f"The interval of {name} reaches {edge}.")
        elif limits and low is not None and high is not None and high - low > parameters[name]:
            found.append(
                f"The interval of {name}, {low:.2f} to {high:.2f}, is wider than {name} itself: more points, or "
                "less noise, are needed before extrapolating."
            )
    return found


def _about_frontier(law: Law, points: Points, optimal: Mapping[str, Any] | None) -> list[str]:
    if optimal is None:
        if not {"params", "tokens"} <= set(law.variables):
            return []
        reason = "has no minimum at fixed compute here" if can_share(law) else "reads more than params and tokens"
        return [f"No compute-optimal sizes are given: law {law.name!r} {reason}."]
    low, high = optimal["intervals"].get("a", (0.0, 0.0))
    found = []
    if low is None or high is None or high - low > 0.3:
        found.append(
            f"The compute-optimal exponent a is known only {_span(low, high)}: sizes far beyond the largest run "
            f"(the rows go to {BEYOND:g} times its compute) are guesses."
        )
    ratio = points.tokens / points.params
    ours = [row["tokens_per_param"] for row in optimal["rows"] if row["times_largest"] <= 1]
    if ours and (max(ours) < ratio.min() or min(ours) > ratio.max()):
        side = "fewer" if max(ours) < ratio.min() else "more"
        found.append(
            f"Every point has {'more' if side == 'fewer' else 'fewer'} tokens per parameter than the law calls optimal "
            f"({figure(min(ours))} to {figure(max(ours))}): cells with {side} would test it."
        )
    return found


def _span(low: float | None, high: float | None) -> str:
    return "without bounds" if low is None or high is None else f"to lie between {low:.2f} and {high:.2f}"


def _about_extrapolation(holdout: Mapping[str, Any] | None, residuals: Array) -> list[str]:
    if holdout is None:
        return []
    missed, fitted = holdout["rms_relative_error"], float(np.sqrt(np.mean(residuals**2)))
    if missed < MISSED * fitted or missed < 0.005 or fitted == 0:
        return []
    return [
        f"Predicting the {holdout['points']} largest runs from the others misses by {percent(missed)} rms, "
        f"{missed / fitted:.1f} times the residual of the fit: the losses do not bend as the law does, and an "
        "extrapolation may miss by more than its interval says."
    ]
