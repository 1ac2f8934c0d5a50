# SPDX-License-Identifier: Apache-2.0
"""points.csv: one line a finished cell, in the order of the design."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError
from t5x_like.files import read_json, write_text
from t5x_like.sweeps.design import Cell, SweepConfig

COLUMNS: tuple[str, ...] = ("params", "tokens", "loss", "loss_stderr", "flops")
COLUMNS += ("params_total", "params_nonembedding", "params_active", "unique_tokens")
COLUMNS += ("family", "run", "seed", "learning_rate", "status")
OF_A_TASK = ("loss", "accuracy", "error")  # of every further evaluation set, as loss_NAME and so on
TRUNK = "trunk"  # the first run of those that share their first steps, in a sweep with trunks


def cell_status(folder: Path, cell: Cell) -> str | None:
    """Returns "finished" or "diverged" of a cell that has ended, else None."""
    path = folder / cell.run / "summary.json"
    status = read_json(path)["status"] if path.is_file() else None
    return status if status in ("finished", "diverged") else None


def write_points(folder: Path, sweep: SweepConfig, design: list[Cell]) -> None:
    """Writes points.csv from the run folders of the cells that have ended."""
    text = io.StringIO()
    tasks = list(dict.fromkeys(name for cell in design for name in cell.config.evaluation))
    told = {name: each for cell in design for name, each in cell.config.evaluation.items()}
    classes = [name for name, each in told.items() if getattr(each, "classes", ())]  # of which an error is told, too
    of_tasks = [f"{what}_{name}" for name in tasks for what in OF_A_TASK if what != "error" or name in classes]
    columns = (*COLUMNS, *of_tasks, *([TRUNK] if sweep.trunks else []))
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    by_run = {cell.run: cell for cell in design}
    for cell in design:
        if cell_status(folder, cell) is None:
            continue
        summary, accounting = (read_json(folder / cell.run / f"{name}.json") for name in ("summary", "accounting"))
        diverged = summary["status"] == "diverged"
        tokens = cell.config.training.tokens if diverged else summary["tokens"]  # its budget: the cell it belongs to
        writer.writerow(
            {
                "params": cell.params[sweep.params_column],
                "tokens": tokens,
                "loss": "nan" if diverged else summary["loss"],
                "loss_stderr": "" if diverged else summary["loss_stderr"],
                "flops": tokens * accounting["flops_per_token"],
                **cell.params,
                "unique_tokens": summary["unique_tokens"],
                "family": cell.arm or cell.config.model.kind,
                "run": cell.run,
                "seed": cell.config.seed,
                "learning_rate": cell.config.optimizer.learning_rate,
                "status": summary["status"],
                TRUNK: _trunk(cell, by_run),
                **_of_tasks(summary),
            }
        )
    write_text(folder / "points.csv", text.getvalue())


def _of_tasks(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run scored on its further evaluation sets, a column each."""
    sets = summary.get("evaluations", {})
    return {f"{what}_{name}": found[what] for name, found in sets.items() for what in OF_A_TASK if what in found}


def _trunk(cell: Cell, by_run: Mapping[str, Cell]) -> str:
    while cell.parent is not None:
        cell = by_run[cell.parent]
    return cell.run


def largest_run(folder: Path) -> Path:
    """Returns the run folder of the finished cell of a sweep that took the most compute.
    Raises UserError: no cell has finished."""
    path = folder / "points.csv"
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise UserError(f"{folder}: no cell of this sweep has finished yet")
    return folder / max(finished, key=lambda row: float(row["flops"]))["run"]
