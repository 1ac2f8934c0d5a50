# SPDX-License-Identifier: Apache-2.0
"""Sections of the analyses that hang on a fit; each appears only where its data is there."""

from collections.abc import Callable
from typing import Any

from t5x_like.scaling.analysis import analyses
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.report import analysis_charts, tables
from t5x_like.scaling.report.charts import Chart
from t5x_like.scaling.report.section import Section, Table
from t5x_like.scaling.wording import figure, percent, span

Found = dict[str, Any]


def of_analyses(fit: Fit) -> list[Section]:
    """Returns a section for each analysis that the fit carries, in the order to read them."""
    return [make(fit.analyses[name], fit) for name, make in BUILDERS.items() if fit.analyses.get(name)]


def leaderboard(found: Found, fit: Fit) -> Section:
    """Laws ranked by their error on runs that their fit did not see."""
    rows = found["rows"]
    if not rows:
        return Section("Other laws", [f"{name}: {why}." for name, why in found["refused"].items()])
    best, own = rows[0], next((row for row in rows if row["law"] == fit.law.name), None)
    sentences = [f"{best['law']} predicts runs left out best: {best['formula']}."]
    if own is not None and own is not best:
        rank = rows.index(own) + 1
        sentences.append(
            f"The law of this report, {own['law']}, is number {rank} of {len(rows)}: it misses runs left out by "
            f"{percent(own['leave_one_out_rms'])} rms, the best by {percent(best['leave_one_out_rms'])}."
        )
    notes = [f"{name} was not tried: {why}." for name, why in found.get("refused", {}).items()]
    chart = analysis_charts.leaderboard(found)
    return Section("Other laws", sentences, (chart,), _tables("leaderboard", found), notes)


def isoflop(found: Found, fit: Fit) -> Section:
    """Best sizes read off runs of equal compute, beside what the fitted law says."""
    law = found["laws"].get(found["form"], {}).get("params")
    sentences = [found["rule"]]
    if law:
        text = f"Best params grow as C^{figure(law['exponent'])} ({span(law['exponent_interval'])}) through the minima"
        against = found.get("against_surface")
        theirs = f"; as C^{figure(against['surface_a'])} by the fitted law" if against else ""
        sentences.append(f"{text}{theirs}.")
    charts = (
        analysis_charts.isoflop_valleys(found, fit.points.params, fit.points.loss),
        analysis_charts.isoflop_sizes(found),
    )
    made = _tables("isoflop", found, shut=True)
    return Section("Iso-FLOP analysis", sentences, charts, made, found["warnings"])


def influence(found: Found, fit: Fit) -> Section:
    """The points that the fit hangs on."""
    most = max(found["rows"], key=lambda row: abs(row["largest"]))
    sentence = (
        f"No single point moves any quantity by more than {abs(most['largest']):.2f} of its standard error"
        f" ({most['moves']}, without {most.get('run') or 'the first of the table'})."
    )
    return Section("Influence", [sentence], (analysis_charts.influence(found),), _tables("influence", found))


def sensitivity(found: Found, fit: Fit) -> Section:
    """The same fit with other thresholds and other windows."""
    exponents = [name for name in fit.law.parameters if name in fit.law.nonlinear] or list(fit.law.parameters)
    asked = (
        ("threshold", "Exponents by Huber threshold", "The same points, fitted with other thresholds."),
        ("window", "Exponents by window", "The same law without the smallest, or the largest, runs."),
    )
    made = [analysis_charts.sensitivity(found[key], exponents, f"by_{key}", *words) for key, *words in asked]
    charts: tuple[Chart, ...] = tuple(chart for chart in made if chart)
    return Section("Sensitivity", (), charts, _tables("sensitivity", found))


def coverage(found: Found, fit: Fit) -> Section:
    """Whether intervals of each method cover, by simulation."""
    sentences = analyses.coverage_sentences(found)
    return Section("Simulated coverage", sentences, (analysis_charts.coverage(found),), _tables("coverage", found))


def intervals(found: Found, fit: Fit) -> Section:
    """Intervals by several methods: {method: {parameter: [low, high]}}."""
    rows = [(name, *(span(found[method].get(name)) for method in found)) for name in fit.parameters]
    chart = analysis_charts.intervals(found, fit.parameters)
    return Section("Intervals by method", (), (chart,), (Table(("parameter", *found), rows),))


def comparison(found: Found, fit: Fit) -> Section:
    """Two arms: compute at equal loss."""
    sentences = [found["verdict"]]
    pairs = found["paired"]
    if pairs and pairs["multiplier"] is not None:
        sentences.append(
            f"Over {pairs['pairs']} pairs of runs of equal cells, {found['names'][1]} is worth "
            f"{figure(pairs['multiplier'])} times its compute ({span(pairs['multiplier_interval'])})."
        )
    known = any(row["multiplier"] is not None for row in found["rows"])
    charts = (analysis_charts.comparison(found),) if known else ()
    return Section("Comparison of arms", sentences, charts, _tables("comparison", found), found["warnings"])


def _tables(name: str, found: Found, shut: bool = False) -> tuple[Table, ...]:
    made = tables.tables_of(name, found)
    if shut:
        return tuple(Table(head, rows, folded=title, shut=True) for title, head, rows in made)
    return tuple(Table(head, rows, title=title) for title, head, rows in made)


BUILDERS: dict[str, Callable[[Any, Fit], Section]] = {
    "leaderboard": leaderboard,
    "isoflop": isoflop,
    "influence": influence,
    "sensitivity": sensitivity,
    "interval_methods": intervals,
    "coverage": coverage,
    "comparison": comparison,
}
