# SPDX-License-Identifier: Apache-2.0
"""Other fits, shown beside the one that a report is about."""

import dataclasses
from typing import Any

from t5x_like.reporting.page import Section, Table
from t5x_like.reporting.wording import figure, percent
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.report import plots
from t5x_like.scaling.report.summary import equation, findings, parameter_rows

PARAMETER_HEAD = ("parameter", "estimate", "95 % interval")


def other_arm(fit: Fit, name: str, first: str) -> Section:
    """The law of the arm `name`, where the page is about `first` and a comparison of both."""
    return _section(fit, f"The law of {name}", f"All but this and the comparison is about {first}. For {name}, ")


def same_points(fit: Fit, best: Fit) -> Section:
    """A law that everyone knows, on the points of the fit that describes them best."""
    words = (
        f"Runs left out are predicted better by the law above ({best.law.name}), so what it says counts. Literature "
        f"speaks of this one, whose residuals are {percent(fit.residual_rms)} against {percent(best.residual_rms)}: "
    )
    return _section(fit, f"Beside it: {fit.law.source}", words)


def known_source(fit: Fit) -> Section:
    """A fit to runs on a process of known entropy: whether this machinery finds an E that can be checked."""
    exact = fit.points.exact_entropy
    assert exact is not None
    if "E" not in fit.parameters:
        verdict = f"The law that describes its runs best, {fit.law.name}, has no E to compare."
    else:
        low, high = fit.intervals.get("E", (None, None))
        inside = (low or 0) <= exact <= (high or exact)
        verdict = f"The truth, {figure(exact, 4)}, is {'inside' if inside else 'outside'} the interval of its E."
    words = (
        "The entropy of a text is not known, so an E fitted to it cannot be checked. That of a process can be "
        f"computed: the same programs trained models of a few sizes on it and fitted them. {verdict} There "
    )
    chart = plots.main_chart(fit)
    chart = dataclasses.replace(chart, name=f"known_source_{chart.name}")
    return dataclasses.replace(_section(fit, "The same where the answer is known", words), charts=(chart,))


def in_short(fit: Fit) -> dict[str, Any]:
    """What fit.json says of such a fit."""
    return {
        "law": fit.law.name,
        "parameters": fit.parameters,
        "intervals": fit.intervals,
        "residual_rms": fit.residual_rms,
        "exact_entropy": fit.points.exact_entropy,
        "points": fit.points.source,
    }


def _section(fit: Fit, title: str, words: str) -> Section:
    sentences = [f"{words}{fit.law.target} = {equation(fit)}.", *findings(fit), *fit.warnings]
    return Section(title, sentences, tables=(Table(PARAMETER_HEAD, parameter_rows(fit)),))
