# SPDX-License-Identifier: Apache-2.0
"""Writes a fit to a folder: fit.json, every chart as PNG, SVG and PDF, parameters.tex, and one report.html.

The page needs no other file and no network: plotly.js is inside it, once (4.8 MB of script, 2 MB as it is packed).
Without JavaScript, and in print, the charts are the PNGs. A new section is a function that returns a `Section`, called
in `of_fit` or, for an analysis that hangs on the fit, named in `analysis_sections.BUILDERS`.
"""

import dataclasses
import html
import os
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.files import make_folder, write_json, write_text
from t5x_like.reporting import draw_plotly, page
from t5x_like.reporting.charts import Chart
from t5x_like.reporting.page import Section, Table
from t5x_like.reporting.painter import Painter
from t5x_like.reporting.wording import count, figure, percent, span
from t5x_like.scaling.fitting import runs
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.report import analysis_sections, latex, plots, provenance
from t5x_like.scaling.report.summary import equation, findings, parameter_rows

PARAMETER_HEAD = ("parameter", "estimate", "95 % interval")
_UNSCREENED = 40  # rows from which a table starts folded


def start_pictures(fit: Fit, painter: Painter) -> None:
    """Hands over the charts of the fit and of the analyses it has, to be drawn while it is being analysed further."""
    charts = charts_of(analysis_sections.of_analyses(fit))
    painter.paint(charts or plots.charts(fit), provenance.stamp(fit.to_json()["provenance"]))


def write_report(
    fit: Fit,
    out: str | os.PathLike[str],
    command: str = "",
    *,
    painter: Painter | None = None,
    extra: Sequence[Section] = (),
) -> Path:
    """Writes fit.json, the charts, parameters.tex and report.html into `out`, each file whole or not at all.

    Returns the path of report.html. `command` is the command line that made the fit, for the record; `painter`, which
    must write into `out`, draws the charts rather than this process; `extra` are sections of your own.
    """
    folder = make_folder(out, "--out")
    content = fit.to_json()
    content["provenance"]["command"] = command
    content["provenance"]["versions"] |= {name: version(name) for name in ("matplotlib", "plotly")}
    content["provenance"]["runs"] = [
        {name: value for name, value in each.items() if name not in ("config", "packages")}
        for each in provenance.of_runs(fit)
    ]
    sections = of_fit(fit, content, extra)
    charts = charts_of(sections)
    painter = painter or Painter(folder)
    painter.paint(charts, provenance.stamp(content["provenance"]))
    write_json(folder / "fit.json", content)
    write_text(folder / "parameters.tex", latex.parameters_table(fit, content["provenance"]))
    library = draw_plotly.library()
    painter.finish()
    pngs = {chart.name: (folder / f"{chart.name}.png").read_bytes() for chart in charts}
    write_text(folder / "report.html", render(fit, sections, pngs, library))
    return folder / "report.html"


def render(fit: Fit, parts: Sequence[Section], pngs: dict[str, bytes], library: str | None) -> str:
    """Returns the report as one HTML document: the answer first, then the sections."""
    answer: dict[str, Any] = {"source": fit.law.source, "law": _law(fit), "tiles": list(_tiles(fit))}
    answer |= {"findings": findings(fit), "warnings": fit.warnings}
    return page.document(f"Scaling law of {len(fit.points)} runs", parts, pngs, library, **answer)


def _law(fit: Fit) -> str:
    text = html.escape(equation(fit)).replace(" / ", " ∕ ")
    return f"{fit.law.target} = " + re.sub(r"\^\(([^()]*)\)|\^([^\s)]+)", lambda m: f"<sup>{m[1] or m[2]}</sup>", text)


def _tiles(fit: Fit) -> Iterable[tuple[str, str]]:
    """The figures that people ask for first, each with what it is."""
    if "E" in fit.parameters and "E" in fit.intervals:
        exact = fit.points.exact_entropy
        known = "" if exact is None else f"; exact entropy {figure(exact, 4)}"
        name = f"E: loss that no size or data removes, {span(fit.intervals['E'])}{known}"
        yield name, figure(fit.parameters["E"], 4)
    if fit.compute_optimal:
        a = fit.compute_optimal["intervals"].get("a")
        yield f"a: optimal params grow as C^a{', ' + span(a) if a else ''}", figure(fit.compute_optimal["a"])
        row = next(row for row in fit.compute_optimal["rows"] if row["times_largest"] >= 0.999)
        spread = row.get("intervals", {}).get("tokens_per_param")
        name = "optimal tokens per param at the largest compute"
        yield f"{name}{', ' + span(spread) if spread else ''}", figure(row["tokens_per_param"])
    if fit.holdout:
        name = f"rms error on the {fit.holdout['points']} largest runs, predicted from the others"
        yield name, percent(fit.holdout["rms_relative_error"])
    yield "rms residual of the fit", percent(fit.residual_rms)


def of_fit(fit: Fit, content: dict[str, Any], extra: Sequence[Section] = ()) -> list[Section]:
    """Returns the report of a fit and its analyses, with the content of fit.json; `extra` comes after the analyses."""
    drawn = {chart.name: chart for chart in plots.charts(fit)}
    last = [drawn.pop(name) for name in ("residuals", "training_curves") if name in drawn]
    optimum = [drawn.pop("optimal_sizes")] if "optimal_sizes" in drawn else []
    written = runs.read_sample(fit.points.folder)
    sections = [
        parameters(fit, content),
        optimal_sizes(fit, optimum),
        Section("Fit and points", charts=tuple(drawn.values())),
        Section("Residuals", charts=tuple(last)),
        *analysis_sections.of_analyses(fit),
        *extra,
        points(fit),
        Section("A sample from the largest model", text=written) if written else None,
        where_from(fit, content),
    ]
    return [section for section in sections if section]


def charts_of(sections: Sequence[Section]) -> list[Chart]:
    """Returns the charts of all of them."""
    return [chart for section in sections for chart in section.charts]


def parameters(fit: Fit, content: dict[str, Any]) -> Section:
    """Estimates and intervals, and how the minimum is known to be one."""
    table = Table(PARAMETER_HEAD, parameter_rows(fit))
    note = f"Intervals: {content['provenance']['interval_method']}." if fit.intervals else "No intervals were made."
    return Section("Parameters", tables=(table,), notes=(_certificate(fit), note))


def _certificate(fit: Fit) -> str:
    c, second = fit.certificate, fit.certificate["second_method"]
    verdict = "agrees" if second["agrees"] else f"disagrees: it ended at {second['objective']:.10g}"
    of = f"log-{fit.law.target.replace('_', ' ')}" if fit.law.logarithmic else fit.law.target
    return (
        f"Objective {fit.objective:.10g}, the sum of Huber losses (delta {fit.huber_delta:g}) of {of} residuals. "
        f"{c['starts_at_minimum']} of {c['starts']} descents from other exponents end here; "
        f"{second['name']} {verdict}. "
        f"Relative gradient {c['gradient_norm']:.1e}; condition number {figure(c['condition_number'])}."
    )


def optimal_sizes(fit: Fit, charts: Sequence[Chart]) -> Section | None:
    """Compute-optimal params, tokens and loss at round steps of compute."""
    optimal = fit.compute_optimal
    if not optimal:
        return None
    shows = {"params": count, "tokens": count, "tokens_per_param": figure, "loss": lambda value: figure(value, 4)}
    rows: list[list[Any]] = []
    for row in optimal["rows"]:
        spread = row.get("intervals", {})
        sizes = [(show(row[name]), span(spread.get(name), show)) for name, show in shows.items()]
        rows.append([figure(row["flops"]), f"× {figure(row['times_largest'], 2)}", *sizes])
    head = ("FLOPs", "of the largest", *(name.replace("_", " ") for name in shows))
    beyond = tuple(row["times_largest"] > 1.001 for row in optimal["rows"])
    note = (
        f"{'With 95 % intervals. ' if fit.intervals else ''}FLOPs are 6 × params × tokens; params are counted as in "
        f"the points ({fit.points.params_column}). Rows in italics lie beyond the largest run."
    )
    table = Table(head, rows, marked=beyond)
    return Section("Compute-optimal sizes", charts=tuple(charts), tables=(table,), notes=(note,))


def points(fit: Fit) -> Section:
    """Every point with the law's value and its residual."""
    at, words = fit.points, plots.in_words(fit)
    rows = [
        (
            f"{words[i]['run']}{' (held out)' if fit.held_out[i] else ''}".strip(),
            words[i]["params"],
            words[i]["tokens"],
            figure(float(at.tokens[i] / at.params[i])),
            figure(float(at.compute[i])),
            *(words[i][name] for name in ("measured", "law", "residual")),
        )
        for i in np.argsort(-at.compute, kind="stable")
    ]
    head = ("run", "params", "tokens", "tokens per param", "FLOPs", fit.law.target, "law", "residual")
    table = Table(head, rows, folded=f"{len(rows)} points, largest first", shut=len(rows) > _UNSCREENED)
    return Section("Points", tables=(table,))


def where_from(fit: Fit, content: dict[str, Any]) -> Section:
    """Provenance: data, method, software, and each run's config."""
    made = content["provenance"]
    found = provenance.of_runs(fit)
    facts = [
        ("points", made["points"]),
        ("points used, sha256", made["points_used_sha256"]),
        ("params column", fit.points.params_column),
        ("data fingerprint", ", ".join(made["data_fingerprints"]) or "not recorded"),
        ("law", f"{fit.law.name}: {fit.law.target} = {fit.law.formula}"),
        ("intervals", made["interval_method"] if fit.intervals else "none"),
        ("replicates", f"{made['bootstrap']}, seed {made['seed']}"),
        ("held out", fit.holdout["rule"] if fit.holdout else "nothing"),
        ("command", made.get("command") or "from Python"),
        ("versions of the fit", provenance.named(made["versions"])),
    ]
    if not found:
        return Section("Provenance", facts=tuple(facts))
    packages = dict.fromkeys(provenance.named(each["packages"]) for each in found if each["packages"])
    facts += [
        ("trained on", ", ".join(provenance.distinct(found, "device_kind")) or "not recorded"),
        ("energy", provenance.energy(found)),
        ("commits of the runs", ", ".join(map(provenance.short, provenance.distinct(found, "git_commit"))) or "none"),
        ("versions of the runs", "; ".join(packages) or "not recorded"),
    ]
    shared, own = provenance.shared_and_own(found)
    fields = [(name, str(value)) for name, value in shared.items()]
    rows = [
        (
            each["run"],
            *(str(each["config"].get(name, "")) for name in own),
            provenance.short(each["fingerprint"]),
            provenance.short(each["config_sha256"]),
        )
        for each in found
    ]
    differ = f"{len(rows)} runs, and the {len(own)} config fields in which they differ"
    tables = (
        Table(("run", *own, "data fingerprint", "config sha256"), rows, folded=differ, shut=True),
        Table(("field", "value"), fields, folded=f"{len(fields)} config fields that all runs share", shut=True),
    )
    return Section("Provenance", facts=tuple(facts), tables=tables)


# --- Other fits, shown beside the one that a report is about ---------------------------------------------------------


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
