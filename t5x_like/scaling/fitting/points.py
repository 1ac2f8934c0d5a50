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
NUMBERS = {"loss_stderr", "flops", "params_total", "params_nonembedding", "params_active", "unique_tokens", "seed"}
NUMBERS |= {"learning_rate"}  # columns that must hold numbers; of the others, those that do are numbers
TEXTS = ("family", "run", "status", "trunk")
# Columns that may differ between rates of a cell, and how those of a task, which may too, begin.
MEASURED = ("loss_stderr", "flops", "learning_rate", "run", "status", "trunk", "accuracy")
OF_A_TASK = ("loss_", "accuracy_", "error_")
UNUSABLE = ("diverged", "interrupted")


@dataclass(frozen=True)
class Points:
    """Columns of n runs, and where they came from.
    `columns` are the others that were given, each [n]: float with NaN for an empty cell, or str."""

    params: Array  # float [n]
    tokens: Array  # of training, float [n]
    loss: Array  # held-out, nats per token, float [n]
    columns: Mapping[str, Array] = field(default_factory=dict)
    params_column: str = "params"  # which parameter count `params` is, such as "params_nonembedding"
    exact_entropy: float | None = None  # of the source in nats per token, where it is known; E estimates it
    source: str = "memory"  # what was read, for the report
    folder: Path | None = None  # the sweep folder with the run folders, or None
    fingerprints: tuple[str, ...] = ()  # the distinct data fingerprints of the runs
    warnings: tuple[str, ...] = ()  # plain sentences about what was dropped or looks odd
    notes: tuple[str, ...] = ()  # plain sentences about how the table was read

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

    @property
    def trunks(self) -> Array | None:
        """The number of the trunk that each run shares its first steps with, [n]; None where no two share one."""
        names = self.columns.get("trunk", np.array([], str))
        _, number = np.unique(names, return_inverse=True)
        return number if len(set(number)) < len(number) else None

    def measured(self, target: str) -> Array:
        """What a law that predicts `target` is fitted to, [n]."""
        return self.loss if target == "loss" else np.asarray(self.columns[target], float)

    def on_frontier(self) -> "Points":
        """The runs that none beats which took as little compute, as Zhai et al. 2022 fit them."""
        order = np.lexsort((self.loss, self.compute))
        best = np.minimum.accumulate(np.append(np.inf, self.loss[order]))[:-1]
        kept = np.sort(order[self.loss[order] < best])
        return self.take(kept, f"{len(kept)} of {len(self)} points are fitted: no other is as good with less compute.")

    def take(self, rows: Array, *warnings: str) -> "Points":
        """Returns the given rows (a mask or indices), with further warnings."""
        own = {name: getattr(self, name)[rows] for name in REQUIRED}
        columns = {name: column[rows] for name, column in self.columns.items()}
        return dataclasses.replace(self, **own, columns=columns, warnings=self.warnings + warnings)


def read_points(
    source: Any,
    params_column: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    units: str | None = None,
    strict: bool = False,
) -> Points:
    """Reads points and leaves out all but the best learning rate, and unusable rows, which `warnings` names.

    Args:
      source: a points.csv; a sweep folder (its points.csv, with sweep.json and one run folder per cell beside it); a
        mapping of columns; a sequence of row mappings; an array [n, 3] of params, tokens, loss; or `Points`, as is.
        Tables as people have them are understood (see `columns`): separators, `6.8B`, `N` and `D`, perplexities.
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
    planned, warnings = design.get("cells", []), list(points.warnings)
    if isinstance(planned, list) and len(names) < len(planned):
        warnings.append(f"The sweep is unfinished: {len(names)} of its {len(planned)} cells are there.")
    if folder and (open_ := runs.undecayed(folder, names)):
        warnings.append(
            f"In {len(open_)} of {len(names)} runs the learning rate had not come down when training ended (such as "
            f"{open_[0]}): a schedule that does not end with its run leaves the loss above what those tokens can give."
        )
    known: dict[str, Any] = {
        "params_column": how["params_column"] or str(design.get("params_column", "params")),
        "exact_entropy": _entropy(design.get("exact_entropy"), path.parent / "sweep.json"),
        "fingerprints": runs.fingerprints(folder, names) if folder else (),
    }
    return _usable(dataclasses.replace(points, folder=folder, warnings=tuple(warnings), **known))


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
    needed = (params_column or "params", *REQUIRED[1:])
    others = given.get("loss", "loss") != "loss" and "loss" in table.columns and "loss_stderr" not in given
    tables.recognise(table, name, needed, given)
    for wanted in needed:
        if wanted not in table.columns:
            have, hint = ", ".join(table.columns), nearest(wanted, table.columns)
            raise UserError(f"{name}: no column {wanted!r}; its columns are {have}{hint}")
    if not table.labels:
        raise UserError(f"{name}: the header is there, but no rows of numbers below it")
    tables.scaled(table, needed[:2], units)
    tables.without_holes(table, needed, strict, UNUSABLE)
    if not table.labels:
        raise UserError(f"{name}: none of its rows is usable: {table.warnings[-1]}")
    columns = {column: _column(table, column, column in needed[:2]) for column in table.columns}
    params, tokens, loss = (columns.pop(column) for column in needed)
    columns.pop("params", None)
    if others:  # the standard error of a loss that is not what is fitted
        columns.pop("loss_stderr", None)
    for column, values in zip(needed, (params, tokens), strict=False):
        for value, label in zip(values, table.labels, strict=True):
            if not (np.isfinite(value) and value > 0):
                raise UserError(f"{label}: {column} is {value:g}; it must be a positive number")
    said: Any = {"warnings": tuple(table.warnings), "notes": tuple(table.notes)}
    return Points(params, tokens, loss, columns=columns, params_column=needed[0], source=name, **said)


def _column(table: Table, name: str, full: bool) -> Array:
    """A column's numbers, NaN for an empty cell unless it must be full; text where not all cells of it are numbers.
    Raises UserError: text in a column that must hold numbers."""
    cells, values = table.columns[name], []
    texts = np.array(["" if cell is None or cell != cell else str(cell) for cell in cells], str)
    if name in TEXTS:
        return texts
    for cell, label in zip(cells, table.labels, strict=True):
        try:
            values.append(np.nan if not full and tables.is_missing(cell) else tables.number(cell))
        except (TypeError, ValueError):
            if name in NUMBERS or name in REQUIRED or full:
                raise UserError(f"{label}: column {name!r} is {cell!r}; it must be a number") from None
            return texts
    return np.array(values, float)


def _usable(points: Points) -> Points:
    """Leaves out repeated rows, runs that did not finish, and all but the best learning rate of a cell."""
    first, _ = _alike([points.params, points.tokens, points.loss, *points.columns.values()])
    if repeats := len(points) - len(first):  # a copied line would count twice
        points = points.take(np.sort(first), f"{tables.rows_were(repeats)} left out as an exact copy of another row.")
    status = points.columns.get("status", np.full(len(points), ""))
    with np.errstate(invalid="ignore"):
        broken = ~np.isin(status, UNUSABLE) & ~(np.isfinite(points.loss) & (points.loss > 0))
    left_out = [(status == word, f"the run was {word}") for word in UNUSABLE]
    left_out.append((broken, "the loss is not a positive finite number"))
    warnings = [f"{tables.rows_were(int(rows.sum()))} left out because {why}." for rows, why in left_out if rows.any()]
    best, notes = _best_learning_rates(points, ~np.any([rows for rows, _ in left_out], 0))
    points = points.take(best, *warnings, *notes)
    if not len(points):
        raise UserError(f"{points.source}: none of its rows is usable: {' '.join(warnings)}")
    return points


def _alike(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Groups rows that agree in every column; returns the first row of each group, and the group of each row."""
    texts = np.stack([np.asarray(column).astype(str) for column in columns], 1)  # NaN is not equal to itself, "nan" is
    _, first, group = np.unique(texts, axis=0, return_index=True, return_inverse=True)
    return first, group.ravel()


def _best_learning_rates(points: Points, usable: Array) -> tuple[Array, list[str]]:
    """Returns the rows to keep: per (params, tokens, seed, ...), the lowest loss over learning rates.
    A learning rate whose run diverged still counts as tried: the best one beside it is not at the edge of the grid."""
    rates = points.columns.get("learning_rate")
    if rates is None:
        return usable, []
    same = [column for name, column in points.columns.items() if not (name in MEASURED or name.startswith(OF_A_TASK))]
    _, cell = _alike([points.params, points.tokens, *same])
    keep, tuned, edge = usable.copy(), 0, 0
    for rows in (np.flatnonzero(cell == number) for number in range(cell.max() + 1)):
        tried, candidates = np.unique(rates[rows]), rows[usable[rows]]
        if np.isfinite(tried).sum() < 2 or not len(candidates):
            continue
        best = candidates[np.argmin(points.loss[candidates])]
        keep[rows] = rows == best
        tuned += 1
        edge += bool(rates[best] in (np.nanmin(tried), np.nanmax(tried)))
    note = f"The best learning rate is the lowest or the highest one tried in {edge} of {tuned} cells: "
    return keep, [f"{note}a wider grid there could lower the loss."] if edge else []
