# SPDX-License-Identifier: Apache-2.0
"""Sections of the analyses that hang on a fit; each appears only where its data is there."""

from collections.abc import Callable
from typing import Any

from t5x_like.reporting.page import Section, Table
from t5x_like.reporting.wording import count, figure, percent, span
from t5x_like.scaling.analysis import analyses
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.report import analysis_charts as charts

Found = dict[str, Any]

FOR_TERMINAL = ("leaderboard", "sensitivity", "comparison", "coverage")  # whose tables are to be read at once
MOST_INFLUENTIAL = 5


def of_analyses(fit: Fit) -> list[Section]:
    """Returns a section for each analysis that the fit carries, in the order to read them."""
    return [make(fit.analyses[name], fit) for name, make in BUILDERS.items() if fit.analyses.get(name)]


def tables_for_terminal(fit: Fit) -> list[Table]:
    """Returns the tables to read at once; the report has those of every analysis."""
    names = [name for name in FOR_TERMINAL if name in fit.analyses]
    return [table for name in names for table in BUILDERS[name](fit.analyses[name], fit).tables]


def leaderboard(found: Found, fit: Fit) -> Section:
    """Laws ranked by their error on runs that their fit did not see."""
    rows = found["rows"]
    if not rows:
        return Section("Other laws", [f"{name}: {why}." for name, why in found["refused"].items()])
    best, own = rows[0], next((row for row in rows if row["law"] == fit.law.name), None)
    sentences = [f"{best['law']} predicts runs left out best: {best['formula']}."]
    if own is not None and own is not best:
        sentences.append(
            f"The law of this report, {own['law']}, is number {rows.index(own) + 1} of {len(rows)}: it misses runs "
            f"left out by {percent(own['leave_one_out_rms'])} rms, the best by {percent(best['leave_one_out_rms'])}."
        )
    notes = [f"{name} was not tried: {why}." for name, why in found.get("refused", {}).items()]
    head = ("law", "parameters", "residual", "leave one out", "larger runs from smaller", "E")
    cells = [
        (
            row["law"],
            str(row["parameters"]),
            percent(row["residual_rms"]),
            percent(row["leave_one_out_rms"]),
            "" if row["rolling_origin_rms"] is None else percent(row["rolling_origin_rms"]),
            figure(row["values"]["E"], 4) if "E" in row["values"] else "none",
        )
        for row in rows
    ]
    table = Table(head, cells, "Laws by their error on runs left out, best first")
    return Section("Other laws", sentences, (charts.leaderboard(found),), (table,), notes)


def isoflop(found: Found, fit: Fit) -> Section:
    """Best sizes read off runs of equal compute, beside what the fitted law says."""
    form = found["form"]
    law, against = found["laws"].get(form, {}).get("params"), found.get("against_surface")
    sentences = [found["rule"]]
    if law:
        text = f"Best params grow as C^{figure(law['exponent'])} ({span(law['exponent_interval'])}) through the minima"
        theirs = f"; as C^{figure(against['surface_a'])} by the fitted law" if against else ""
        sentences.append(f"{text}{theirs}.")
    rows = []
    for budget in found["budgets"]:
        curve = budget["curves"][form] or {"problem": "too few sizes"}
        best = ("none", curve["problem"])
        if not curve["problem"]:
            best = count(curve["params"]), span(curve["intervals"]["params"], count)
        rows.append((figure(budget["flops"]), str(len(budget["sizes"])), *best))
    title = f"Best size by budget ({form})"
    table = Table(("FLOPs", "sizes", "best params", "95 % interval"), rows, folded=title, shut=True)
    drawn = charts.isoflop_valleys(found, fit.points.params, fit.points.loss), charts.isoflop_sizes(found)
    return Section("Iso-FLOP analysis", sentences, drawn, (table,), found["warnings"])


def influence(found: Found, fit: Fit) -> Section:
    """The points that the fit hangs on."""
    rows = sorted(found["rows"], key=lambda row: -abs(row["largest"]))[:MOST_INFLUENTIAL]
    most = rows[0]
    sentence = (
        f"No single point moves any quantity by more than {abs(most['largest']):.2f} of its standard error"
        f" ({most['moves']}, without {most.get('run') or 'the first of the table'})."
    )
    head = ("point", "loss", "residual", "without it, moves", "by standard errors")
    cells = [
        (
            f"{count(row['params'])} params, {count(row['tokens'])} tokens",
            figure(row["loss"], 4),
            percent(row["residual"], signed=True),
            row["moves"],
            f"{row['largest']:+.2f}",
        )
        for row in rows
    ]
    table = Table(head, cells, "Points that decide most")
    return Section("Influence", [sentence], (charts.influence(found),), (table,))


def sensitivity(found: Found, fit: Fit) -> Section:
    """The same fit with other thresholds and other windows."""
    exponents = [name for name in fit.law.parameters if name in fit.law.nonlinear] or list(fit.law.parameters)
    asked = (
        ("threshold", "Exponents by Huber threshold", "The same points, fitted with other thresholds."),
        ("window", "Exponents by window", "The same law without the smallest, or the largest, runs."),
    )
    drawn = [charts.sensitivity(found[key], exponents, f"by_{key}", *words) for key, *words in asked]
    names = tuple(found["threshold"][0]["parameters"])

    def cells(row: Found) -> tuple[str, ...]:
        setting = row["setting"] + (" (this fit)" if row.get("used") else "")
        if row["parameters"] is None:
            return (setting, str(row["points"]), *[""] * (1 + len(names)))
        values = (figure(row["parameters"][name]) for name in names)
        return (setting, str(row["points"]), percent(row["residual_rms"]), *values)

    head = ("points", "residual", *names)
    tables = (
        Table(("threshold", *head), list(map(cells, found["threshold"])), "The same with other Huber thresholds"),
        Table(("fitted", *head), list(map(cells, found["window"])), "The same with fewer points"),
    )
    return Section("Sensitivity", (), tuple(chart for chart in drawn if chart), tables)


def intervals(found: Found, fit: Fit) -> Section:
    """Intervals by several methods: {method: {parameter: [low, high]}}."""
    rows = [(name, *(span(found[method].get(name)) for method in found)) for name in fit.parameters]
    chart = charts.intervals(found, fit.parameters)
    return Section("Intervals by method", (), (chart,), (Table(("parameter", *found), rows),))


def coverage(found: Found, fit: Fit) -> Section:
    """Whether intervals of each method cover, by simulation."""
    methods = found["methods"]
    shares = zip(*(methods[method]["coverage"] for method in methods), strict=True)
    rows = [(name, *map(percent, row)) for name, row in zip(found["quantities"], shares, strict=True)]
    title = f"How often 95 % intervals hold the truth, in {found['simulations']} simulations of this design"
    table = Table(("quantity", *methods), rows, title)
    return Section("Simulated coverage", analyses.coverage_sentences(found), (charts.coverage(found),), (table,))


def comparison(found: Found, fit: Fit) -> Section:
    """Two arms: compute at equal loss."""
    a, b = found["names"]
    sentences, pairs = [found["verdict"]], found["paired"]
    if pairs and pairs["multiplier"] is not None:
        sentences.append(
            f"Over {pairs['pairs']} pairs of runs of equal cells, {b} is worth {figure(pairs['multiplier'])} times its "
            f"compute ({span(pairs['multiplier_interval'])})."
        )
    worth = ["" if row["multiplier"] is None else figure(row["multiplier"]) for row in found["rows"]]
    rows = [
        (figure(row["loss"], 4), figure(row["flops_a"]), figure(row["flops_b"]), multiplier, span(row["interval"]))
        for row, multiplier in zip(found["rows"], worth, strict=True)
    ]
    head = ("loss", f"FLOPs of {a}", f"FLOPs of {b}", "multiplier", "95 % interval")
    table = Table(head, rows, f"Compute that {b} is worth, as a multiple of its own")
    drawn = (charts.comparison(found),) if any(worth) else ()
    return Section("Comparison of arms", sentences, drawn, (table,) if rows else (), found["warnings"])


BUILDERS: dict[str, Callable[[Any, Fit], Section]] = {
    "leaderboard": leaderboard,
    "isoflop": isoflop,
    "influence": influence,
    "sensitivity": sensitivity,
    "interval_methods": intervals,
    "coverage": coverage,
    "comparison": comparison,
}
