# SPDX-License-Identifier: Apache-2.0
"""Tables as people have them: other separators, comments, 6.8B and 1,730,543,416, N and D, perplexities, billions.

What is done with a table beyond reading it is said in notes; what looks wrong in warnings.
"""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError, nearest

UNITS = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
# What columns are called elsewhere, in lower case; read where the name that is asked for is not there.
ALIASES = {
    "params": ("n", "parameters", "num_params", "n_params", "model_size"),
    "tokens": ("d", "num_tokens", "n_tokens", "train_tokens", "training_tokens"),
    "loss": ("l", "loss_nats", "val_loss", "eval_loss", "test_loss", "validation_loss"),
    "flops": ("c", "compute", "training_flops", "train_flops"),
    "perplexity": ("ppl", "val_ppl", "val_perplexity"),
}
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_WITH_UNIT = re.compile(r"([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*([kKMBGT])")
_LARGEST_FRACTION = 1e5  # counts with digits behind the point are products of units, unless they are large


@dataclass
class Table:
    """Columns of cells by name; notes and warnings are plain sentences."""

    columns: dict[str, list[Any]]  # text or numbers, each [n]
    labels: list[str]  # what each row is called in an error
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_csv(path: Path) -> Table:
    """Reads a file of rows, separated by commas, semicolons or tabs; lines that begin with # are comments.
    Raises UserError: no header, a name twice, or a row of another length."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not numbered or not numbered[0][1].strip(" ,;\t"):
        raise UserError(f"{path}: the file is empty; its first line must name the columns params, tokens, loss")
    separator = max(",;\t", key=numbered[0][1].count)
    rows = list(csv.reader((line for _, line in numbered), delimiter=separator))
    header = [name.strip() for name in rows[0]]
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path}: column {repeated[0]!r} is named twice in the header")
    places = [f"{path} line {number}" for number, _ in numbered[1:]]
    for row, place in zip(rows[1:], places, strict=True):
        if len(row) != len(header):
            raise UserError(f"{place}: {len(row)} cells where the header has {len(header)}")
    decimal = "," if separator == ";" else "."
    columns = {name: [_plain(row[i].strip(), decimal) for row in rows[1:]] for i, name in enumerate(header)}
    notes = [] if separator == "," else [f"Columns are separated by {'tabs' if separator == chr(9) else 'semicolons'}."]
    return Table(columns, places, notes)


def _plain(cell: str, decimal: str) -> str:
    """1,730,543 without its commas; of a table separated by semicolons, 3,14 with a point."""
    if _THOUSANDS.fullmatch(cell):
        return cell.replace(",", "")
    return cell.replace(",", ".") if decimal == "," and cell.count(",") == 1 else cell


def number(cell: Any) -> float:
    """A cell's number, with or without a unit such as 6.8B. Raises ValueError: it is none."""
    found = _WITH_UNIT.fullmatch(cell) if isinstance(cell, str) else None
    return float(found[1]) * UNITS[found[2]] if found else float(cell)


def is_missing(cell: Any) -> bool:
    if isinstance(cell, str):
        return cell.lower() in ("", "na", "n/a", "nan", "null", "none", "-")
    return cell is None or cell != cell


def rows_were(n: int) -> str:
    return "1 row was" if n == 1 else f"{n} rows were"


def recognise(table: Table, name: str, wanted: Sequence[str], given: Mapping[str, str]) -> None:
    """Names the columns as the fit does: as `given` says, else by what they are often called; derives what is missing.

    Changes the table, which errors call `name`, in place. `wanted` are the parameter count's column, tokens and loss;
    `given` is {name: the table's name of that column}. Raises UserError: a name that is given and not there.
    """
    columns = table.columns
    for target, source in given.items():
        if source not in columns:
            have = ", ".join(columns)
            raise UserError(f"--columns={target}={source}: {name} has the columns {have}{nearest(source, columns)}")
        columns[target] = columns.pop(source)
    for target, aliases in ALIASES.items():
        found = [column for column in columns if column.lower() in aliases]
        if target not in columns and found:
            columns[target] = columns.pop(found[0])
            table.notes.append(f"Column {found[0]!r} is read as {target}.")
    count, tokens, loss = wanted
    if loss not in columns and "perplexity" in columns:
        columns[loss] = [math.log(number(cell)) if not is_missing(cell) else "" for cell in columns.pop("perplexity")]
        table.notes.append("The loss is the logarithm of the perplexity, in nats.")
    if "flops" in columns:
        for missing, there in ((tokens, count), (count, tokens)):
            if missing not in columns and there in columns:
                pairs = zip(columns["flops"], columns[there], strict=True)
                known = [() if is_missing(c) or is_missing(n) else (number(c), number(n)) for c, n in pairs]
                columns[missing] = [pair[0] / (6 * pair[1]) if pair else "" for pair in known]
                table.notes.append(f"There is no column {missing}: {missing} = flops / (6 {there}).")


def scaled(table: Table, counts: Sequence[str], units: str | None) -> None:
    """Multiplies counts by a unit; warns where they look like they want one. Raises UserError: an unknown unit."""
    if units is not None:
        if units not in UNITS:
            raise UserError(f"--units={units}: accepted: {', '.join(UNITS)}")
        for name in counts:
            cells = table.columns.get(name, [])
            table.columns[name] = [cell if is_missing(cell) else number(cell) * UNITS[units] for cell in cells]
        table.notes.append(f"{' and '.join(counts)} are multiplied by {UNITS[units]:g}.")
        return
    for name in counts:
        try:
            values = [number(cell) for cell in table.columns.get(name, []) if not is_missing(cell)]
        except (TypeError, ValueError):
            continue  # told where numbers are read
        values = [value for value in values if math.isfinite(value) and value > 0]
        if values and max(values) < _LARGEST_FRACTION and any(value != round(value) for value in values):
            table.warnings.append(
                f"{name} from {min(values):g} to {max(values):g} cannot be counts; they are likely "
                f"{'billions' if max(values) < 1e4 else 'millions'}: units='B' (--units=B) multiplies by 1e9, M by 1e6."
            )


def without_holes(table: Table, names: Sequence[str], strict: bool, unfinished: Sequence[str]) -> None:
    """Leaves out rows that lack a number they need; runs whose status is one of `unfinished` may lack a loss.
    Raises UserError: `strict`, and there is one."""
    status = table.columns.get("status", [""] * len(table.labels))
    holes = {
        i: name
        for name in names
        for i, cell in enumerate(table.columns[name])
        if is_missing(cell) and not (name == "loss" and status[i] in unfinished)
    }
    if not holes:
        return
    told = [f"{table.labels[i]} (no {holes[i]})" for i in sorted(holes)]
    if strict:
        raise UserError(f"{told[0]}: strict reading refuses rows with a missing number")
    more = f", and {len(told) - 5} more" if len(told) > 5 else ""
    table.warnings.append(f"{rows_were(len(told))} left out because a number is missing: {', '.join(told[:5])}{more}.")
    kept = [i for i in range(len(table.labels)) if i not in holes]
    table.columns = {name: [cells[i] for i in kept] for name, cells in table.columns.items()}
    table.labels = [table.labels[i] for i in kept]
