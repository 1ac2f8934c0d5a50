# SPDX-License-Identifier: Apache-2.0
"""The points a law is fitted to: one row per finished run, from points.csv, a sweep folder, or memory."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError, nearest
from t5x_like.scaling.fitting import columns as tables
from t5x_like.scaling.fitting import runs
from t5x_like.scaling.fitting.columns import Table

Array = np.ndarray

REQUIRED = ("params", "tokens", "loss")
NUMBERS = (
    "loss_stderr",
    "flops",
    "params_total",
    "params_nonembedding",
    "params_active",
    "unique_tokens",
    "seed",
    "learning_rate",
)
TEXTS = ("family", "run", "status")
MEASURED = ("loss_stderr", "flops", "learning_rate", "run", "status", "accuracy")  # may differ between rates of a cell
UNUSABLE = ("diverged", "interrupted")


@dataclass(frozen=True)
class Points:
    """Columns of n runs, and where they came from.

    Attributes:
      params, tokens, loss: float [n]; parameters, training tokens, and held-out loss in nats per token.
      columns: the other columns that were given, each [n]: float with NaN for an empty cell, or str.
      params_column: which parameter count `params` is, such as "params_nonembedding".
      exact_entropy: the entropy of the source in nats per token, where it is known; the law's E estimates it.
      source: what was read, for the report.
      folder: the sweep folder with the run folders, or None.
      fingerprints: the distinct data fingerprints of the runs.
      warnings: plain sentences about what was dropped or looks odd.
      notes: plain sentences about how the table was read.
    """

    params: Array
    tokens: Array
    loss: Array
    columns: Mapping[str, Array] = field(default_factory=dict)
    params_column: str = "params"
    exact_entropy: float | None = None
    source: str = "memory"
    folder: Path | None = None
    fingerprints: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def compute(self) -> Array:
        """Training compute in FLOPs, [n], counted as 6 params tokens, which is what the frontier minimises under."""
        return 6.0 * self.params * self.tokens

    @property
    def variables(self) -> dict[str, Array]:
        """Every numeric column by name: what a law may read."""
        numeric = {name: column for name, column in self.columns.items() if column.dtype.kind == "f"}
        return {**numeric, "params": self.params, "tokens": self.tokens}

    def measured(self, target: str) -> Array:
        """What a law that predicts `target`, "loss" or "accuracy", is fitted to, [n]."""
        return self.loss if target == "loss" else np.asarray(self.columns[target], float)

    def take(self, rows: Array, *warnings: str) -> "Points":
        """Returns the given rows (a mask or indices), with further warnings."""
        return dataclasses.replace(
            self,
            params=self.params[rows],
            tokens=self.tokens[rows],
            loss=self.loss[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            warnings=self.warnings + warnings,
        )


def read_points(
    source: Any,
    params_column: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    units: str | None = None,
    strict: bool = False,
) -> Points:
    """Reads points and leaves out all but the best learning rate, and unusable rows, which `warnings` names.

    Tables as people have them are understood (see `columns`): other separators, `6.8B`, `N` and `D`, perplexities.

    Args:
      source: a points.csv; a sweep folder (its points.csv, with sweep.json and one run folder per cell beside it); a
        mapping of columns; a sequence of row mappings; an array [n, 3] of params, tokens, loss; or `Points`, as is.
      params_column: read the parameter count from this column instead of `params`.
      columns: what the table calls its columns, such as {"loss": "val_loss"}.
      units: of params and tokens: "M" for millions, "B" for billions; None: they are counts.
      strict: whether a row with a missing number is refused rather than left out.

    Raises:
      UserError: a missing file or column, text in a number's place, no rows, sizes that are not positive.
    """
    if isinstance(source, Points):
        if params_column not in (None, source.params_column):
            raise UserError(f"params_column: these points count {source.params_column} already; read them again")
        return source
    how: dict[str, Any] = {"params_column": params_column, "given": columns or {}, "units": units, "strict": strict}
    if isinstance(source, str | os.PathLike):
        return _read_path(Path(source), how)
    return _usable(_from_table(Table(*_memory_table(source)), "points", **how))


def _read_path(path: Path, how: dict[str, Any]) -> Points:
    """Reads a points.csv; sweep.json and run folders beside it add what they know."""
    if path.is_dir():
        if not (path / "points.csv").is_file():
            raise UserError(f"{path}: this folder holds no points.csv; give a points.csv or a finished sweep's folder")
        path = path / "points.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a points.csv or a finished sweep's folder")
    design = runs.read_object(path.parent / "sweep.json")
    points = _from_table(tables.read_csv(path), str(path), **how)
    folder = path.parent if design else None
    names = points.columns.get("run", np.array([], str))
    planned = design.get("cells", [])
    if isinstance(planned, list) and len(names) < len(planned):
        missing = f"The sweep is unfinished: {len(names)} of its {len(planned)} cells are there."
        points = dataclasses.replace(points, warnings=(missing, *points.warnings))
    if folder and (open_ := runs.undecayed(folder, names)):
        cut = (
            f"In {len(open_)} of {len(names)} runs the learning rate had not come down when training ended (such as "
            f"{open_[0]}): a schedule that does not end with its run leaves the loss above what those tokens can give."
        )
        points = dataclasses.replace(points, warnings=(*points.warnings, cut))
    return _usable(
        dataclasses.replace(
            points,
            params_column=how["params_column"] or str(design.get("params_column", "params")),
            exact_entropy=_entropy(design.get("exact_entropy"), path.parent / "sweep.json"),
            folder=folder,
            fingerprints=runs.fingerprints(folder, names) if folder else (),
        )
    )


def _entropy(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
        raise UserError(f"{path}: exact_entropy is {value!r}; it must be a number of nats per token, 0 or more")
    return float(value)


def _memory_table(source: Any) -> tuple[dict[str, Any], list[str]]:
    """Columns and what rows are called, from a mapping of columns (a DataFrame is one), row mappings, or an array."""
    if hasattr(source, "keys") and hasattr(source, "__getitem__"):
        table = {str(name): list(source[name]) for name in source.keys()}  # noqa: SIM118  a DataFrame iterates otherwise
    elif isinstance(source, Sequence) and source and all(isinstance(row, Mapping) for row in source):
        names = list(dict.fromkeys(name for row in source for name in row))
        table = {name: [row.get(name, "") for row in source] for name in names}
    else:
        try:
            array = np.asarray(source, float)
        except (TypeError, ValueError):
            array = np.empty(0)
        if array.ndim != 2 or array.shape[1] != len(REQUIRED):
            raise UserError(
                f"points: got {type(source).__name__} of shape {np.shape(array)}; accepted: a path, a mapping of "
                "columns, a list of row mappings, or an array with the columns params, tokens, loss"
            )
        table = {name: list(array[:, i]) for i, name in enumerate(REQUIRED)}
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"points: columns differ in length: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    return table, [f"points row {i}" for i in range(max(lengths.values(), default=0))]


def _from_table(
    table: Table, name: str, params_column: str | None, given: Mapping[str, str], units: str | None, strict: bool
) -> Points:
    """Checks the columns and turns text into numbers."""
    count = params_column or "params"
    tables.recognise(table, name, (count, *REQUIRED[1:]), given)
    columns = table.columns
    for wanted in (count, *REQUIRED[1:]):
        if wanted not in columns:
            hint = nearest(wanted, columns)
            raise UserError(f"{name}: no column {wanted!r}; its columns are {', '.join(columns)}{hint}")
    if not table.labels:
        raise UserError(f"{name}: the header is there, but no rows of numbers below it")
    tables.scaled(table, (count, "tokens"), units)
    tables.without_holes(table, (count, *REQUIRED[1:]), strict, UNUSABLE)
    columns, labels = table.columns, table.labels
    if not labels:
        raise UserError(f"{name}: none of its rows is usable: {table.warnings[-1]}")
    params, tokens = (_numbers(columns[c], c, labels, empty_is=None) for c in (count, "tokens"))
    loss = _numbers(columns["loss"], "loss", labels, empty_is=np.nan)
    for column, values in ((count, params), ("tokens", tokens)):
        for value, label in zip(values, labels, strict=True):
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"{label}: {column} is {value:g}; it must be a positive number")
    optional: dict[str, Array] = {c: _numbers(columns[c], c, labels, empty_is=np.nan) for c in NUMBERS if c in columns}
    optional |= {c: np.array([_text(cell) for cell in columns[c]], str) for c in TEXTS if c in columns}
    known = (count, *REQUIRED, *NUMBERS, *TEXTS)
    optional |= {c: _numbers_or_text(columns[c]) for c in columns if c not in known}
    said: Any = {"warnings": tuple(table.warnings), "notes": tuple(table.notes)}
    return Points(params, tokens, loss, columns=optional, params_column=count, source=name, **said)


def _numbers(cells: Sequence[Any], column: str, labels: list[str], empty_is: float | None) -> Array:
    values = []
    for cell, label in zip(cells, labels, strict=True):
        if empty_is is not None and tables.is_missing(cell):
            values.append(empty_is)
            continue
        try:
            values.append(tables.number(cell))
        except (TypeError, ValueError):
            raise UserError(f"{label}: column {column!r} is {cell!r}; it must be a number") from None
    return np.array(values, float)


def _numbers_or_text(cells: Sequence[Any]) -> Array:
    """Any other column: numbers where all cells are, so that a law of the user's may read them."""
    texts = [_text(cell) for cell in cells]
    try:
        return np.array([float(text) if text else np.nan for text in texts], float)
    except ValueError:
        return np.array(texts, str)


def _text(cell: Any) -> str:
    return "" if cell is None or cell != cell else str(cell)


def _usable(points: Points) -> Points:
    """Leaves out repeated rows, runs that did not finish, and all but the best learning rate of a cell."""
    points = _without_repeats(points)
    status = points.columns.get("status", np.full(len(points), ""))
    unfinished = np.isin(status, UNUSABLE)
    with np.errstate(invalid="ignore"):
        broken = ~unfinished & ~(np.isfinite(points.loss) & (points.loss > 0))
    warnings = []
    for word in UNUSABLE:
        if (n := int((status == word).sum())) > 0:
            warnings.append(f"{_rows(n)} left out because the run was {word}.")
    if (n := int(broken.sum())) > 0:
        warnings.append(f"{_rows(n)} left out because the loss is not a positive finite number.")
    usable = ~unfinished & ~broken
    best, notes = _best_learning_rates(points, usable)
    points = points.take(best, *warnings, *notes)
    if not len(points):
        raise UserError(f"{points.source}: none of its rows is usable: {' '.join(warnings)}")
    return points


def _rows(n: int) -> str:
    return "1 row was" if n == 1 else f"{n} rows were"


def _without_repeats(points: Points) -> Points:
    """Keeps the first of rows that agree in every column: a copied line would count twice."""
    keys = list(zip(points.params, points.tokens, points.loss, *map(_comparable, points.columns.values()), strict=True))
    seen = {key: i for i, key in reversed(list(enumerate(keys)))}
    first = np.array([seen[key] == i for i, key in enumerate(keys)])
    if first.all():
        return points
    n = int((~first).sum())
    return points.take(first, f"{_rows(n)} left out as an exact copy of another row.")


def _comparable(column: Array) -> list[str]:
    return [str(value) for value in column]  # NaN is not equal to itself, "nan" is


def _best_learning_rates(points: Points, usable: Array) -> tuple[Array, list[str]]:
    """Returns the rows to keep: per (params, tokens, seed, ...), the lowest loss over learning rates.

    A learning rate whose run diverged still counts as tried: the best one beside it is not at the edge of the grid.
    """
    rates = points.columns.get("learning_rate")
    if rates is None:
        return usable, []
    same = [column for name, column in points.columns.items() if name not in MEASURED]
    keys = list(zip(points.params, points.tokens, *map(_comparable, same), strict=True))
    cells: dict[Any, list[int]] = {}
    for i, key in enumerate(keys):
        cells.setdefault(key, []).append(i)
    keep, tuned, edge = usable.copy(), 0, 0
    for rows in cells.values():
        tried = np.unique(rates[rows])
        candidates = [i for i in rows if usable[i]]
        if len(tried[np.isfinite(tried)]) < 2 or not candidates:
            continue
        best = min(candidates, key=lambda i: points.loss[i])
        keep[[i for i in rows if i != best]] = False
        tuned += 1
        edge += bool(rates[best] in (np.nanmin(tried), np.nanmax(tried)))
    if not edge:
        return keep, []
    return keep, [
        f"The best learning rate is the lowest or the highest one tried in {edge} of {tuned} cells: "
        "a wider grid there could lower the loss."
    ]
