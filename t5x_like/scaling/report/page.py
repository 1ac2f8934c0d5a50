# SPDX-License-Identifier: Apache-2.0
"""HTML of a report's parts. Everything that is not markup of ours is escaped."""

import html
import json
from base64 import b64encode
from collections.abc import Iterable, Sequence

from t5x_like.scaling.report import draw_plotly
from t5x_like.scaling.report.charts import Chart
from t5x_like.scaling.report.interaction import SCRIPT
from t5x_like.scaling.report.section import Cell, Section, Table
from t5x_like.scaling.report.style import CSS


def document(title: str, parts: Iterable[str], library: str | None) -> str:
    """Returns a whole page; `library` is plotly.js as `draw_plotly.library` returns it, or None for still pictures."""
    live = "" if library is None else _scripts(library)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{''.join(parts)}</main>{live}</body></html>\n"
    )


def _scripts(library: str) -> str:
    note = "<!-- plotly.js, copyright Plotly, Inc., MIT license; compressed by gzip, in base64 -->"
    return f'\n{note}\n<script type="text/plain" id="plotly">{library}</script>\n<script>{SCRIPT}</script>\n'


def section(part: Section, pngs: dict[str, bytes]) -> str:
    """Returns a section; `pngs` are the pictures by the name of their chart."""
    pieces = [
        items(part.sentences) if part.sentences else "",
        _charts(part.charts, pngs),
        _facts(part.facts),
        *map(table, part.tables),
        f'<pre class="sample">{html.escape(part.text)}</pre>' if part.text else "",
        *(f'<p class="note">{html.escape(note)}</p>' for note in part.notes),
    ]
    return f"<section><h2>{html.escape(part.title)}</h2>{''.join(pieces)}</section>\n"


def items(sentences: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _charts(charts: Sequence[Chart], pngs: dict[str, bytes]) -> str:
    return f'<div class="pictures">{"".join(_chart(c, pngs[c.name]) for c in charts)}</div>' if charts else ""


def _chart(chart: Chart, png: bytes) -> str:
    title, caption = html.escape(chart.title), html.escape(chart.caption)
    image = f'<img alt="{title}. {caption}" src="data:image/png;base64,{b64encode(png).decode()}">'
    # No "<" may stand inside: it could end the script, or begin a comment.
    drawing = json.dumps(draw_plotly.figure(chart), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    data = f'<script type="application/json">{drawing}</script>'
    box = f'<div class="chart" data-name="{html.escape(chart.name)}">{image}{data}</div>'
    files = f"{html.escape(chart.name)}.svg, .pdf, .png"
    return (
        f'<figure>{box}<figcaption><b>{title}.</b> {caption} <span class="files">{files}</span></figcaption></figure>'
    )


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    pairs = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts)
    return f"<dl>{pairs}</dl>"


def table(part: Table) -> str:
    """Returns a table that scrolls sideways on a narrow screen."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in part.head)
    body = []
    for i, row in enumerate(part.rows):
        mark = ' class="beyond"' if i < len(part.marked) and part.marked[i] else ""
        body.append(f"<tr{mark}>{''.join(map(_cell, row))}</tr>")
    made = f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    made = f'<div class="scroll" tabindex="0">{made}</div>'
    if part.title:
        made = f"<h3>{html.escape(part.title)}</h3>{made}"
    if part.folded:
        made = f"<details{'' if part.shut else ' open'}><summary>{html.escape(part.folded)}</summary>{made}</details>"
    return made


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    value, below = cell
    return f"<td>{html.escape(value)}<small>{html.escape(below)}</small></td>"
