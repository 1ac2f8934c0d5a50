# SPDX-License-Identifier: Apache-2.0
"""Writes a fit to a folder: fit.json, pictures, and one report.html that needs no other file and no network."""

import base64
import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.files import write_bytes, write_json, write_text
from t5x_like.scaling import runs
from t5x_like.scaling.fit import Fit
from t5x_like.scaling.plots import Picture, pictures
from t5x_like.scaling.style import CSS
from t5x_like.scaling.summary import equation, findings, parameter_rows
from t5x_like.scaling.wording import count, figure, percent, span

PARAMETER_HEAD = ("parameter", "estimate", "95 % interval")
LONG_TABLE = 40  # rows from which the table of points starts folded
Cell = str | tuple[str, str]  # the text of a table's cell, or that and a smaller line below it


def prepare_folder(out: str | os.PathLike[str]) -> Path:
    """Creates the output folder, before any work is spent.

    Raises:
      UserError: it cannot be created, or is a file.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: not a folder that can be written ({error.strerror})") from None
    return folder


def write_report(fit: Fit, out: str | os.PathLike[str], command: str = "") -> Path:
    """Writes fit.json, the pictures and report.html into `out`, each file whole or not at all.

    Args:
      fit: the fit.
      out: a folder, created when missing.
      command: the command line that made the fit, for the record.

    Returns:
      The path of report.html.
    """
    folder = prepare_folder(out)
    content = fit.to_json()
    content["provenance"]["command"] = command
    drawn = pictures(fit)
    for picture in drawn:
        write_bytes(folder / picture.name, picture.png)
    write_json(folder / "fit.json", content)
    write_text(folder / "report.html", render(fit, drawn, content["provenance"]))
    return folder / "report.html"


def render(fit: Fit, drawn: Sequence[Picture], provenance: dict[str, Any]) -> str:
    """Returns the report as one HTML document."""
    sections = [
        _header(fit),
        _warnings(fit.warnings),
        _section("What the fit says", _list(findings(fit))),
        _section("Pictures", f'<div class="pictures">{"".join(map(_picture, drawn))}</div>'),
        _section("Parameters", _table(PARAMETER_HEAD, parameter_rows(fit)), _certificate(fit)),
        _frontier(fit),
        _points(fit),
        _sample(runs.read_sample(fit.points.folder)),
        _provenance(provenance, fit),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Scaling law of {len(fit.points)} runs</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def _header(fit: Fit) -> str:
    law = re.sub(r"\^(\S+)", r"<sup>\1</sup>", html.escape(equation(fit))).replace(" / ", " ∕ ")
    source = f" ({html.escape(fit.law.source)})" if fit.law.source else ""
    lead = f"Scaling law of {len(fit.points)} runs{source}"
    tiles = "".join(f"<div><b>{value}</b><span>{html.escape(name)}</span></div>" for name, value in _tiles(fit))
    return f'<header><p class="lead">{lead}</p><h1>loss = {law}</h1><div class="tiles">{tiles}</div></header>'


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


def _warnings(sentences: Sequence[str]) -> str:
    if not sentences:
        return '<section class="fine"><p>No warnings: nothing about the points or the fit looks unusual.</p></section>'
    title = "1 warning" if len(sentences) == 1 else f"{len(sentences)} warnings"
    return f'<section class="warnings"><h2>{title}</h2>{_list(sentences)}</section>'


def _list(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    title, caption = html.escape(picture.title), html.escape(picture.caption)
    image = f'<img alt="{title}. {caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption><b>{title}.</b> {caption}</figcaption></figure>"


def _table(head: Sequence[str], rows: Iterable[Sequence[Cell]], marked: Sequence[bool] = ()) -> str:
    """A table that scrolls sideways on a narrow screen; marked rows are set back."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = []
    for i, row in enumerate(rows):
        mark = ' class="beyond"' if i < len(marked) and marked[i] else ""
        body.append(f"<tr{mark}>{''.join(map(_cell, row))}</tr>")
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    value, below = cell
    return f"<td>{html.escape(value)}<small>{html.escape(below)}</small></td>"


def _certificate(fit: Fit) -> str:
    c, second = fit.certificate, fit.certificate["second_method"]
    verdict = "agrees" if second["agrees"] else f"disagrees: it ended at {second['objective']:.10g}"
    return (
        f'<p class="note">Objective {fit.objective:.10g}, the sum of Huber losses (delta {fit.huber_delta:g}) of '
        f"log-loss residuals. {c['starts_at_minimum']} of {c['starts']} descents from other exponents end here; "
        f"{html.escape(second['name'])} {verdict}. Relative gradient {c['gradient_norm']:.1e}; condition number "
        f"{figure(c['condition_number'])}.</p>"
    )


def _frontier(fit: Fit) -> str:
    optimal = fit.compute_optimal
    if not optimal:
        return ""
    shows = {"params": count, "tokens": count, "tokens_per_param": figure, "loss": lambda value: figure(value, 4)}
    rows: list[list[Cell]] = []
    for row in optimal["rows"]:
        spread = row.get("intervals", {})
        sizes = [(show(row[name]), span(spread.get(name), show)) for name, show in shows.items()]
        rows.append([figure(row["flops"]), f"× {figure(row['times_largest'], 2)}", *sizes])
    head = ("FLOPs", "of the largest", *(name.replace("_", " ") for name in shows))
    beyond = [row["times_largest"] > 1.001 for row in optimal["rows"]]
    note = (
        '<p class="note">With 95 % intervals. FLOPs are 6 × params × tokens; params are counted as in the points '
        f"({html.escape(fit.points.params_column)}). Rows in italics lie beyond the largest run.</p>"
    )
    return _section("Compute-optimal sizes", _table(head, rows, beyond), note)


def _points(fit: Fit) -> str:
    points = fit.points
    predicted = np.exp(np.log(points.loss) - fit.residuals)
    names = points.columns.get("run", np.full(len(points), ""))
    stderr = points.columns.get("loss_stderr", np.full(len(points), np.nan))
    rows = []
    for i in np.argsort(-points.compute, kind="stable"):
        error = f" ± {figure(float(stderr[i]), 2)}" if np.isfinite(stderr[i]) else ""
        rows.append(
            (
                f"{names[i]}{' (held out)' if fit.held_out[i] else ''}".strip(),
                count(float(points.params[i])),
                count(float(points.tokens[i])),
                figure(float(points.tokens[i] / points.params[i])),
                figure(float(points.compute[i])),
                f"{figure(float(points.loss[i]), 4)}{error}",
                figure(float(predicted[i]), 4),
                percent(float(np.expm1(fit.residuals[i])), signed=True),
            )
        )
    head = ("run", "params", "tokens", "tokens per param", "FLOPs", "loss", "law", "residual")
    shut = "" if len(rows) > LONG_TABLE else " open"
    table = f"<details{shut}><summary>{len(rows)} points, largest first</summary>{_table(head, rows)}</details>"
    return _section("Points", table)


def _sample(text: str | None) -> str:
    if not text:
        return ""
    return _section("A sample from the largest model", f'<pre class="sample">{html.escape(text)}</pre>')


def _provenance(provenance: dict[str, Any], fit: Fit) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    rows = [
        ("points", provenance["points"]),
        ("points used, sha256", provenance["points_used_sha256"]),
        ("params column", fit.points.params_column),
        ("data fingerprint", ", ".join(provenance["data_fingerprints"]) or "not recorded"),
        ("law", f"{fit.law.name}: loss = {fit.law.formula}"),
        ("intervals", provenance["interval_method"]),
        ("replicates", f"{provenance['bootstrap']}, seed {provenance['seed']}"),
        ("held out", fit.holdout["rule"] if fit.holdout else "nothing"),
        ("command", provenance["command"] or "from Python"),
        ("versions", versions),
    ]
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in rows)
    return _section("Provenance", f"<dl>{items}</dl>")
