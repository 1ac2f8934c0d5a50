# SPDX-License-Identifier: Apache-2.0
"""The parts that a report is made of, as data."""

from collections.abc import Sequence
from dataclasses import dataclass

from t5x_like.scaling.report.charts import Chart

Cell = str | tuple[str, str]  # the text of a table's cell, or that and a smaller line below it


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      head, rows: text; the first column reads from the left, the others from the right.
      title: above it.
      marked: rows that are set back, in italics.
      folded: if given, the line behind which the table can be folded away; it starts so where `shut`.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    marked: Sequence[bool] = ()
    folded: str = ""
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
