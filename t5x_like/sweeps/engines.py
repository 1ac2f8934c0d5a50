# SPDX-License-Identifier: Apache-2.0
"""Where a sweep's cells are trained: by this machine's cores, on a Ray cluster, or through Slurm's queue.

An engine has workers by number. `send` gives one a job, a JSON text as `worker.py` reads it, and what becomes of it
comes back through `answers`. On this machine a worker is a process that stays; elsewhere it is a place for one cell at
a time, and each cell is a task of its own, in a process that ends with it.
"""

import contextlib
import importlib.util
import json
import logging
import math
import os
import queue
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError, unknown_name
from t5x_like.files import read_json, write_json
from t5x_like.sweeps.design import Cell

ENGINES = {"local": None, "ray": "ray", "slurm": "submitit"}  # the package that each needs; extras are called like them
RESOURCES = ("TPU", "GPU", "CPU")  # what Ray calls devices; of a cluster that has several, the first counts


class Engine(ABC):
    """What carries cells out.

    Of `answers`, (worker, answer), {"step", "loss"} come on the way, {"status"} or {"error"} at a cell's end and
    {"gone": why} when a worker has ended.
    """

    answers: "queue.SimpleQueue[tuple[int, dict[str, Any]]]"
    logs: list[Path]  # where each worker's output is, or what is known of it

    @abstractmethod
    def send(self, worker: int, job: str) -> None:
        """Gives a worker that has none a job."""

    @abstractmethod
    def close(self) -> None:
        """Tells the workers to save and end, and waits for them."""


class LocalEngine(Engine):
    """Worker processes with their pipes, each pinned to a core where one is given."""

    def __init__(self, folder: Path, cores: list[int | None]):
        self.answers = queue.SimpleQueue()
        self.logs = [folder / "workers" / f"{number}.log" for number in range(len(cores))]
        self._processes = [self._start(number, core) for number, core in enumerate(cores)]

    def _start(self, number: int, core: int | None) -> "subprocess.Popen[str]":
        self.logs[number].parent.mkdir(exist_ok=True)
        with self.logs[number].open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "t5x_like.sweeps.worker", *([] if core is None else [str(core)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # ctrl-C reaches the sweep alone, which then stops its workers in order
            )
        threading.Thread(target=self._listen, args=(number, process), daemon=True).start()
        return process

    def _listen(self, number: int, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with contextlib.suppress(json.JSONDecodeError):  # a line torn by the worker's death
            for line in process.stdout:
                self.answers.put((number, json.loads(line)))
        self.answers.put((number, {"gone": f"worker {number} ended with code {process.wait()}"}))

    def send(self, worker: int, job: str) -> None:
        pipe = self._processes[worker].stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):  # the worker's end is on the way as an answer
            print(job, file=pipe, flush=True)

    def close(self) -> None:
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # upon which a worker saves and ends
        for process in self._processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def train_cell(job: str, place: int | None) -> dict[str, Any]:
    """Trains one cell in a process of its own, and says how it ended. On a CPU it takes one core, the `place`-th."""
    from t5x_like.sweeps.worker import answer_to, pin

    if place is not None:
        pin(place)
    return answer_to(json.loads(job), lambda **progress: None)


class _Places(Engine):
    """Places for one task each; a thread waits for what is there."""

    def __init__(self, folder: Path, cell: Cell, places: int):
        self.answers = queue.SimpleQueue()
        self._one_core = devices_of(cell) == 1
        self.logs = [folder / "workers"] * places
        self._tasks: dict[int, Any] = {}

    def send(self, worker: int, job: str) -> None:
        threading.Thread(target=self._carry_out, args=(worker, job), daemon=True).start()

    def _carry_out(self, worker: int, job: str) -> None:
        try:
            answer = self._run(worker, job, worker if self._one_core else None)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        self._tasks.pop(worker, None)
        self.answers.put((worker, answer))

    @abstractmethod
    def _run(self, worker: int, job: str, core: int | None) -> dict[str, Any]: ...


class RayEngine(_Places):
    """Tasks of a Ray cluster, a placement group for each: the one at RAY_ADDRESS, or one on this machine.

    A cell takes as many devices as its mesh has, TPUs or GPUs where the cluster has some, else one CPU. The sweep's
    folder has to be one that every node sees. A sweep that dies takes its tasks with it.
    """

    def __init__(self, folder: Path, cell: Cell, workers: int | None):
        import ray

        self._ray = ray
        self._ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        there = self._ray.cluster_resources()
        self._resource = next(name for name in RESOURCES if there.get(name))
        self._devices = devices_of(cell) if self._resource != "CPU" else 1
        number = int(there[self._resource])
        if not (places := number // self._devices):
            taken = f"{self._devices} {self._resource}"
            raise UserError(f"--engine=ray: a cell takes {taken}, and the cluster has {number}")
        super().__init__(folder, cell, min(places, workers or places))

    def _run(self, worker: int, job: str, core: int | None) -> dict[str, Any]:
        from ray.util.placement_group import placement_group, remove_placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([{"CPU": 1, self._resource: self._devices}])
        try:
            self._ray.get(group.ready())
            once = self._ray.remote(max_calls=1)  # JAX does not let go of its devices before its process ends
            task = once(train_cell).options(
                num_cpus=1,
                num_gpus=self._devices if self._resource == "GPU" else 0,
                resources={"TPU": self._devices} if self._resource == "TPU" else {},
                max_retries=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group),
            )
            self._tasks[worker] = task.remote(job, core)
            return dict(self._ray.get(self._tasks[worker]))
        finally:
            remove_placement_group(group)

    def close(self) -> None:
        for task in list(self._tasks.values()):
            self._ray.cancel(task)  # an interrupt, upon which a run saves
        with contextlib.suppress(Exception):
            self._ray.wait(list(self._tasks.values()), num_returns=len(self._tasks), timeout=60)
        self._ray.shutdown()


class SlurmEngine(_Places):
    """Jobs of Slurm through submitit; where there is no Slurm, processes of this machine through the same library.

    A job outlives the sweep that submitted it: its number stands in the cell's folder, and the next sweep.py waits for
    it rather than train the cell twice.
    """

    PLACES = 100  # jobs in the queue at a time, if nobody says how many

    def __init__(self, folder: Path, cell: Cell, workers: int | None, options: dict[str, Any]):
        import submitit

        self._executor = submitit.AutoExecutor(folder=folder / "slurm")
        alone = self._executor.cluster != "slurm"
        super().__init__(folder, cell, workers or (len(os.sched_getaffinity(0)) if alone else self.PLACES))
        gpus = {} if alone or devices_of(cell) == 1 else {"gpus_per_node": devices_of(cell)}
        try:
            self._executor.update_parameters(**{"name": folder.name, "timeout_min": 24 * 60, **gpus, **options})
        except (NameError, TypeError, ValueError) as error:
            raise UserError(f"--slurm: {' '.join(str(error).split())}") from None

    def _run(self, worker: int, job: str, core: int | None) -> dict[str, Any]:
        known = Path(json.loads(job)["run"]) / "slurm_job.json"
        task = self._running(known)
        if task is None:
            task = self._executor.submit(train_cell, job, core)
            write_json(known, {"job": task.job_id})
        self._tasks[worker] = task
        return dict(task.result())

    def _running(self, known: Path) -> Any:
        """The job that an earlier sweep gave this cell to, if it still waits or trains.
        Without Slurm nobody knows: a process that still trains holds the run folder, and a new one waits for it."""
        if not known.is_file() or self._executor.cluster != "slurm":
            return None
        from submitit import SlurmJob

        task: SlurmJob[Any] = SlurmJob(self._executor.folder, str(read_json(known)["job"]))
        return None if task.done(force_check=True) else task

    def close(self) -> None:
        for task in list(self._tasks.values()):
            with contextlib.suppress(Exception):
                task.cancel(check=False)
        for task in list(self._tasks.values()):
            with contextlib.suppress(Exception):
                task.wait()


def devices_of(cell: Cell) -> int:
    """The devices of a cell's mesh; -1, which takes what there is, counts as one."""
    return math.prod(max(1, size) for size in cell.config.mesh.sizes.values())


def check_engine(name: str) -> None:
    """Refuses an engine that there is not, or not on this machine."""
    if name not in ENGINES:
        raise unknown_name("--engine", name, ENGINES)
    package = ENGINES[name]
    if package is not None and importlib.util.find_spec(package) is None:
        raise UserError(f"--engine={name}: needs {package}; pip install -c constraints.txt -e '.[{name}]'")
