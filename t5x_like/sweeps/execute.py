# SPDX-License-Identifier: Apache-2.0
"""Carrying a sweep out: worker processes, what is missing handed to them, points.csv kept up to date."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.files import make_folder, read_json, write_json
from t5x_like.strict import to_dict
from t5x_like.sweeps.design import Cell, SweepConfig, base_identity, cells
from t5x_like.sweeps.engines import Engine, LocalEngine, RayEngine, SlurmEngine, check_engine
from t5x_like.sweeps.points import cell_status, write_points
from t5x_like.training.trunk import shared_steps


class SweepReporter(Protocol):
    """What a sweep tells of itself; amounts of work as in `Cell.work`."""

    def start(self, done: float, total: float, finished: int, number: int) -> None: ...
    def progress(self, done: float) -> None: ...
    def cell(self, cell: Cell, status: str, loss: float | None, seconds: float) -> None: ...
    def close(self) -> None: ...


def run_sweep(
    sweep: SweepConfig,
    workdir: str | Path,
    reporter: SweepReporter,
    workers: int | None = None,
    engine: str = "local",
    slurm: Mapping[str, Any] | None = None,
) -> list[str]:
    """Runs the cells that are missing, writes sweep.json and points.csv, and returns errors of cells, a line each.

    A folder may be used again with a larger grid; cells that have ended are never run again. When this process is
    interrupted or dies, its workers save and stop, and the next call goes on from there.

    There are at most `workers` cells under way, by default one a core, or what the `engine` has room for; see
    `engines.py`. `slurm` are submitit's parameters. Raises UserError: an impossible cell, a folder that holds the cells
    of another sweep, or one that is in use.
    """
    check_engine(engine)
    folder = Path(workdir)
    design = cells(sweep)
    with _opened(folder, sweep, design):
        write_points(folder, sweep, design)
        ended = [cell for cell in design if cell_status(folder, cell)]
        missing = [cell for cell in design if cell not in ended]
        reporter.start(_work(ended), _work(design), len(ended), len(design))
        if not missing:
            return []
        most = min(len(missing), workers or len(missing))
        with contextlib.closing(_engine(engine, folder.absolute(), design[0], workers, most, slurm or {})) as pool:
            return _Execution(folder.absolute(), sweep, design, missing, pool, reporter).run()


def _engine(name: str, folder: Path, cell: Cell, workers: int | None, most: int, slurm: Mapping[str, Any]) -> Engine:
    if name == "ray":
        return RayEngine(folder, cell, workers)
    if name == "slurm":
        return SlurmEngine(folder, cell, workers, dict(slurm))
    return LocalEngine(folder, worker_cores(cell)[:most])


def worker_cores(cell: Cell) -> list[int | None]:
    """Which core each worker is pinned to: one worker a core for one-device runs on a CPU, else one, not pinned."""
    if any(size != 1 for size in cell.config.mesh.sizes.values()) or not hasattr(os, "sched_getaffinity"):
        return [None]
    probe = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    backend = subprocess.run(probe, capture_output=True, text=True).stdout.strip()
    return [*sorted(os.sched_getaffinity(0))] if backend == "cpu" else [None]


@dataclass
class _Execution:
    """The missing cells of a sweep being run by a pool of workers."""

    folder: Path
    sweep: SweepConfig
    design: list[Cell]
    waiting: list[Cell]
    pool: Engine
    reporter: SweepReporter
    running: dict[int, tuple[Cell, float]] = field(default_factory=dict)  # by worker: the cell and when it began
    steps: dict[int, int] = field(default_factory=dict)
    last_size: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    gone: set[int] = field(default_factory=set)  # workers

    def __post_init__(self) -> None:
        self.done = _work(self.design) - _work(self.waiting)

    def run(self) -> list[str]:
        self._give_to_idle()
        while self.running:
            worker, answer = self.pool.answers.get()
            if "step" in answer:
                self.steps[worker] = answer["step"]
                self.reporter.progress(self.done + sum(map(self._partial, self.running)))
                continue
            self._ended(worker, answer)
            if "gone" in answer:
                self.gone.add(worker)
            self._give_to_idle()
        if self.waiting and not self.errors:
            self.errors.append("every worker has stopped")
        return self.errors

    def _give_to_idle(self) -> None:
        """Hands cells to all workers that have none; one may wait for another's run, to go on from it."""
        for worker in range(len(self.pool.logs)):
            if worker not in self.running and worker not in self.gone:
                self._give(worker)

    def _give(self, worker: int) -> None:
        """Hands the next cell to a worker, if there is one whose parent has ended.

        Preferably of the size it has compiled, then of one that no other worker is at, so that no two compile the same
        program at once; within that of the arm that is furthest behind, and the most work first, so that no long cell
        is left for the end.
        """
        unfinished = {cell.run for cell in (*self.waiting, *(cell for cell, _ in self.running.values()))}
        ready = [cell for cell in self.waiting if cell.parent not in unfinished]
        if not ready:
            return
        others = {size for other, size in self.last_size.items() if other != worker}
        mine = self.last_size.get(worker)
        left = {cell.arm: _work(self.waiting, cell.arm) / _work(self.design, cell.arm) for cell in self.waiting}
        cell = max(ready, key=lambda c: (c.size == mine, c.size not in others, left[c.arm], c.work))
        self.waiting.remove(cell)
        self.last_size[worker] = cell.size
        self.running[worker] = (cell, time.monotonic())
        self.steps[worker] = cell.first_step
        path = self.folder / cell.run
        path.mkdir(exist_ok=True)
        write_json(path / "config.json", to_dict(cell.config))
        trunk = {"keep_at": shared_steps(cell.config), "parent": cell.parent and str(self.folder / cell.parent)}
        self.pool.send(worker, json.dumps({"run": str(path), "trunk": trunk if self.sweep.trunks else None}))

    def _ended(self, worker: int, answer: dict[str, Any]) -> None:
        if worker not in self.running:  # one that had nothing left to do has ended
            return
        cell, began = self.running.pop(worker)
        status = cell_status(self.folder, cell)
        if status is None:
            why = answer.get("error") or answer.get("gone") or f"its status is {answer.get('status')!r}"
            self.errors.append(f"{cell.run}: {why} (see {self.pool.logs[worker]})")
            self.reporter.cell(cell, "failed", None, time.monotonic() - began)
            return
        self.done += cell.work
        loss = read_json(self.folder / cell.run / "summary.json")["loss"]
        write_points(self.folder, self.sweep, self.design)
        self.reporter.progress(self.done + sum(map(self._partial, self.running)))
        self.reporter.cell(cell, status, loss, time.monotonic() - began)

    def _partial(self, worker: int) -> float:
        """Work that a worker has done on the cell it is at."""
        cell, _ = self.running[worker]
        steps = cell.config.training.steps or 1
        return cell.work * max(0, self.steps[worker] - cell.first_step) / max(1, steps - cell.first_step)


@contextlib.contextmanager
def _opened(folder: Path, sweep: SweepConfig, design: list[Cell]) -> Iterator[None]:
    """Makes the folder, or accepts one of the same sweep, and keeps other sweeps out of it meanwhile."""
    path = folder / "sweep.json"
    if not path.is_file() and folder.exists() and _occupied(folder):
        raise UserError(f"{folder}: is not empty and holds no sweep; choose another --workdir")
    make_folder(folder)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when this process dies
        except OSError:
            raise UserError(f"{folder}: another sweep.py is at work there") from None
        _write_design(path, sweep, design)
        yield


def _write_design(path: Path, sweep: SweepConfig, design: list[Cell]) -> None:
    """Writes sweep.json, unless what it says contradicts this design."""
    base = json.loads(json.dumps(base_identity(sweep)))
    data = build_dataset(design[0].config.data, 0)  # tokenises once, before the workers start
    names = [cell.run for cell in design]
    if path.is_file():
        before = read_json(path)
        if before.get("base") != base:
            raise UserError(f"{path.parent}: holds the cells of another sweep; choose another --workdir")
        if before.get("fingerprint") != data.fingerprint:
            raise UserError(
                f"{path.parent}: its cells were trained on data {before.get('fingerprint')}, which has changed since: "
                f"it is {data.fingerprint} now; choose another --workdir"
            )
        gone = [name for name in before.get("cells", []) if name not in names]
        if lost := [name for name in gone if (path.parent / name / "summary.json").is_file()]:
            raise UserError(
                f"{path.parent}: this grid lacks {len(lost)} cells that are already there, such as {lost[0]}; a grid "
                "may only grow: add them, or choose another --workdir"
            )
    told = {"params_column": sweep.params_column, "exact_entropy": data.exact_entropy, "fingerprint": data.fingerprint}
    write_json(path, told | {"base": base, "design": to_dict(sweep), "cells": names})


def _occupied(folder: Path) -> bool:
    """Whether a folder has more than hidden files, such as what a kill left of a write."""
    return folder.is_file() or any(not entry.name.startswith(".") for entry in folder.iterdir())


def _work(some: list[Cell], arm: str | None = None) -> float:
    return sum(cell.work for cell in some if arm in (None, cell.arm))
