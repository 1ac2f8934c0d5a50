# SPDX-License-Identifier: Apache-2.0
"""Sections as data, and the page that is made of them from page.html.jinja, page.css and page.js beside this."""

import functools
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from t5x_like.reporting import draw_plotly
from t5x_like.reporting.charts import Chart
from t5x_like.reporting.palette import DARK, LIGHT, SIZES_DARK, SIZES_LIGHT

_HERE = Path(__file__).parent
_LIGHT = "--back: #f3f4f6; --warn: #fff8eb; --warn-edge: #d97706; --fine: #f2faf5;"
_DARK = "--back: #0e1013; --warn: #2b2216; --warn-edge: #d97706; --fine: #14241b;"

Cell = str | tuple[str, str]  # the text of a table's cell, or that and a smaller line below it


@dataclass(frozen=True)
class Table:
    """A table of text; the first column reads from the left, the others from the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""  # above it
    marked: Sequence[bool] = ()  # rows that are set back, in italics
    folded: str = ""  # if given, the line behind which the table can be folded away; it starts so where `shut`
    shut: bool = False


@dataclass(frozen=True)
class Section:
    """A section: sentences, then charts, then facts (name, value), tables, preformatted text, notes in small type."""

    title: str
    sentences: Sequence[str] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    text: str = ""


@functools.cache
def template(name: str = "page.html.jinja") -> jinja2.Template:
    """The template of a whole page; everything that is filled in is escaped."""
    loader = jinja2.FileSystemLoader(_HERE)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)


def document(title: str, parts: Sequence[Section], pngs: dict[str, bytes], library: str | None, **answer: Any) -> str:
    """Returns a whole page of sections, below an `answer` that the template shows.

    `pngs` are pictures by the name of their chart, `library` plotly.js as `draw_plotly.library` returns it, or None for
    still pictures.
    """
    pictures = {
        chart.name: {"png": b64encode(pngs[chart.name]).decode(), "drawing": as_script(draw_plotly.figure(chart))}
        for part in parts
        for chart in part.charts
    }
    colours = {"light": {**LIGHT, "scale": SIZES_LIGHT}, "dark": {**DARK, "scale": SIZES_DARK}}
    files = {"css": style_sheet(), "js": (_HERE / "page.js").read_text(), "colours": json.dumps(colours)}
    return template().render(title=title, parts=parts, pictures=pictures, library=library, **files, **answer)


def as_script(content: Any) -> str:
    """JSON without any "<", which could end the script that it stands in, or begin a comment."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def style_sheet() -> str:
    """One column for reading, two for pictures where the screen has room; light, dark, print."""
    light, dark = _variables(LIGHT, _LIGHT), _variables(DARK, _DARK)
    roots = f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    return roots + (_HERE / "page.css").read_text()


def _variables(colours: dict[str, str], more: str) -> str:
    named = "".join(f"--{name}: {colours[name]}; " for name in ("paper", "ink", "muted", "accent"))
    return f"{named}--rule: {colours['grid']}; {more}"
