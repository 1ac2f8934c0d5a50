# SPDX-License-Identifier: Apache-2.0
"""Writes a fit to a folder: fit.json, every chart as PNG, SVG and PDF, parameters.tex, and one report.html.

The page needs no other file and no network: plotly.js is inside it, once (4.8 MB of script, 2 MB as it is packed).
Without JavaScript, and in print, the charts are the PNGs.
"""

import html
import os
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from t5x_like.files import make_folder, write_json, write_text
from t5x_like.reporting import draw_plotly, page
from t5x_like.reporting.page import Section
from t5x_like.reporting.painter import Painter
from t5x_like.reporting.wording import figure, percent, span
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.report import analysis_sections, latex, plots, provenance, sections
from t5x_like.scaling.report.summary import equation, findings


def start_pictures(fit: Fit, painter: Painter) -> None:
    """Hands over the charts of the fit and of the analyses it has, to be drawn while it is being analysed further."""
    charts = [chart for section in analysis_sections.of_analyses(fit) for chart in section.charts]
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

    Returns the path of report.html.

    Args:
      command: the command line that made the fit, for the record.
      painter: what draws the charts; by default, this process. It must write into `out`.
      extra: sections of your own.
    """
    folder = make_folder(out, "--out")
    content = fit.to_json()
    content["provenance"]["command"] = command
    content["provenance"]["versions"] |= {name: version(name) for name in ("matplotlib", "plotly")}
    content["provenance"]["runs"] = [
        {name: value for name, value in each.items() if name not in ("config", "packages")}
        for each in provenance.of_runs(fit)
    ]
    report = sections.of_fit(fit, content, extra)
    painter = painter or Painter(folder)
    painter.paint(report.charts, provenance.stamp(content["provenance"]))
    write_json(folder / "fit.json", content)
    write_text(folder / "parameters.tex", latex.parameters_table(fit, content["provenance"]))
    library = draw_plotly.library()
    painter.finish()
    pngs = {chart.name: (folder / f"{chart.name}.png").read_bytes() for chart in report.charts}
    write_text(folder / "report.html", render(fit, report.sections, pngs, library))
    return folder / "report.html"


def render(fit: Fit, parts: Sequence[Section], pngs: dict[str, bytes], library: str | None) -> str:
    """Returns the report as one HTML document: the answer first, then the sections."""
    return page.document(
        f"Scaling law of {len(fit.points)} runs",
        parts,
        pngs,
        library,
        source=fit.law.source,
        law=_law(fit),
        tiles=list(_tiles(fit)),
        findings=findings(fit),
        warnings=fit.warnings,
    )


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
