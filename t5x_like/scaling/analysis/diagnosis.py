# SPDX-License-Identifier: Apache-2.0
"""What a careful colleague would say about a fit before anybody spends compute on it, as plain sentences."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from t5x_like.reporting.wording import count, figure, percent
from t5x_like.scaling.fitting.certificate import FLAT
from t5x_like.scaling.fitting.weights import robust_scale
from t5x_like.scaling.laws.frontier import BEYOND, can_share

if TYPE_CHECKING:
    from t5x_like.scaling.fitting.fit import Fit

_PLAIN = {"S": "the size of the power", "balance": "the balance of params and tokens"}
OUTLIER = 6.0  # robust standard deviations; a normal residual passes it once in 5e8
MISSED = 3.0  # held-out error over the residual of the fit, from which the law is the problem rather than noise
REPEATED = 4.0  # passes over the data up to which Muennighoff et al. 2023 see repeated tokens worth nearly fresh ones


def concerns(fit: "Fit") -> list[str]:
    """Returns the warnings of a fit, those about the data first, then the fit, then what it is used for."""
    about = (_about_points, _about_residuals, _about_minimum, _about_intervals, _about_frontier, _about_extrapolation)
    return [*fit.points.warnings, *(sentence for look in about for sentence in look(fit))]


def _points(n: int) -> str:
    return "1 point" if n == 1 else f"{n} points"


def _about_points(fit: "Fit") -> Iterator[str]:
    law, points = fit.law, fit.points
    if len(points.fingerprints) > 1:
        names = ", ".join(fingerprint[:12] for fingerprint in points.fingerprints)
        yield (
            f"The runs were trained on {len(points.fingerprints)} different corpora (fingerprints {names}): their "
            "losses are not comparable."
        )
    families = sorted({str(f) for f in points.columns.get("family", []) if f})
    if len(families) > 1:
        yield f"One law is fitted to {len(families)} model families together: {', '.join(families)}."
    unique = points.columns.get("unique_tokens")
    if unique is not None and "unique_tokens" not in law.variables:
        passes = np.divide(points.tokens, unique, out=np.ones(len(points)), where=unique > 0)
        if repeated := int((passes > 1 + 1e-6).sum()):
            strong = f", beyond {REPEATED:g}, where repetition is known to cost" if passes.max() > REPEATED else ""
            yield (
                f"{_points(repeated)} saw the same data more than once (up to {passes.max():.2g} times{strong}); "
                "the law takes every token as fresh."
            )
    n, p = len(points), len(law.parameters)
    if n <= p + 3:
        left = f"leave {n - p} to judge the noise by"
        yield f"{n} points for {p} parameters {left}: the intervals are rough themselves."
    if {"params", "tokens"} <= set(law.variables):
        correlation = float(np.corrcoef(np.log(points.params), np.log(points.tokens))[0, 1])
        if abs(correlation) > 0.95:
            yield (
                f"Params and tokens rise together (correlation {correlation:.3f} of their logarithms), so the two "
                "exponents are hard to tell apart: add cells with other tokens per parameter."
            )


def _about_residuals(fit: "Fit") -> Iterator[str]:
    """Outliers, by a scale that leaves out as many points as a Huber fit may pass exactly through."""
    law, points, residuals = fit.law, fit.points, fit.residuals
    scale = robust_scale(residuals, len(law.parameters))
    far = int((np.abs(residuals) > OUTLIER * scale).sum())
    if scale < 1e-12 or not far:
        return
    worst = np.argmax(np.abs(residuals))
    miss = float(np.expm1(residuals[worst]) if law.relative else residuals[worst])
    size, tokens = count(float(points.params[worst])), count(float(points.tokens[worst]))
    yield (
        f"{_points(far)} {'lies' if far == 1 else 'lie'} more than {OUTLIER:g} robust standard deviations "
        f"off the law; the worst is {percent(miss, signed=True)}, at {size} params and {tokens} tokens."
    )


def _about_minimum(fit: "Fit") -> Iterator[str]:
    law, certificate = fit.law, fit.certificate
    second = certificate["second_method"]
    if not second["agrees"]:
        yield (
            f"A second method ({second['name']}) ended at objective {second['objective']:.8g}, above this fit's: the "
            "minimum is not confirmed."
        )
    if certificate["condition_number"] > FLAT:
        direction = certificate["flattest_direction"]
        names = [_PLAIN.get(name, name) for name in sorted(direction, key=lambda name: -abs(direction[name]))[:2]]
        yield (
            f"The points barely determine a combination of {' and '.join(names)} (condition number "
            f"{figure(certificate['condition_number'], 2)}): very different values of them fit almost as well."
        )
    for bound in certificate["active_bounds"]:
        name = bound.split(" = ")[0]
        if name in law.parameters and not law.coordinates:
            yield (
                f"{name} is at its bound ({bound}): the losses pull it further, so the law does not describe them "
                "well, and the other intervals are too narrow."
            )
        else:
            what = _PLAIN.get(name, name)
            yield f"{what} is at the edge of the range searched: the points fit a simpler law as well."


def _about_intervals(fit: "Fit") -> Iterator[str]:
    law, parameters = fit.law, fit.parameters
    for name, (low, high) in fit.intervals.items():
        limits = None if law.coordinates else law.nonlinear.get(name)
        if name in law.linear and low is not None and low <= 0 < parameters[name]:
            yield f"The interval of {name} reaches 0: the points do not exclude a law without it."
        if limits and (low is None or high is None or low <= limits[0] or high >= limits[1]):
            yield f"The interval of {name} reaches the edge of the range searched, {limits[0]:g} to {limits[1]:g}."
        elif limits and low is not None and high is not None and high - low > parameters[name]:
            yield (
                f"The interval of {name}, {low:.2f} to {high:.2f}, is wider than {name} itself: more points, or "
                "less noise, are needed before extrapolating."
            )


def _about_frontier(fit: "Fit") -> Iterator[str]:
    law, points, optimal = fit.law, fit.points, fit.compute_optimal
    if optimal is None:
        if {"params", "tokens"} <= set(law.variables):
            reason = "has no minimum at fixed compute here" if can_share(law) else "reads more than params and tokens"
            yield f"No compute-optimal sizes are given: law {law.name!r} {reason}."
        return
    low, high = optimal["intervals"].get("a", (0.0, 0.0))
    unbounded = low is None or high is None
    if unbounded or high - low > 0.3:
        known = "without bounds" if unbounded else f"to lie between {low:.2f} and {high:.2f}"
        yield (
            f"The compute-optimal exponent a is known only {known}: sizes far beyond the largest run "
            f"(the rows go to {BEYOND:g} times its compute) are guesses."
        )
    ratio = points.tokens / points.params
    ours = [row["tokens_per_param"] for row in optimal["rows"] if row["times_largest"] <= 1]
    if ours and (max(ours) < ratio.min() or min(ours) > ratio.max()):
        have, wanted = ("more", "fewer") if max(ours) < ratio.min() else ("fewer", "more")
        yield (
            f"Every point has {have} tokens per parameter than the law calls optimal "
            f"({figure(min(ours))} to {figure(max(ours))}): cells with {wanted} would test it."
        )


def _about_extrapolation(fit: "Fit") -> Iterator[str]:
    holdout, fitted = fit.holdout, fit.residual_rms
    missed = holdout["rms_relative_error"] if holdout else 0.0
    if holdout and missed >= max(MISSED * fitted, 0.005) and fitted > 0:
        yield (
            f"Predicting the {holdout['points']} largest runs from the others misses by {percent(missed)} rms, "
            f"{missed / fitted:.1f} times the residual of the fit: the losses do not bend as the law does, and an "
            "extrapolation may miss by more than its interval says."
        )
