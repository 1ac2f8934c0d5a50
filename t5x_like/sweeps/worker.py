# SPDX-License-Identifier: Apache-2.0
"""A worker process of a sweep: trains the run folders it is told to, one after another.

Started as `python -m t5x_like.sweeps.worker [CORE]`. Reads a job a line from standard input, {"run": folder, "trunk":
what it shares with others}, and answers with JSON lines on standard output: {"step", "loss"} while a run goes on,
{"status"} or {"error"} at its end. With a core, the process is pinned to it before JAX is imported, so that XLA has one
thread. When its input closes, as it does when the sweep dies, it saves and stops.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from t5x_like.training.progress import Silent


def main(core: int | None) -> None:
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints goes to the log, not into the answers

    def tell(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), daemon=True).start()
    while (job := jobs.get()) is not None:
        tell(**answer_to(job, tell))


def pin(place: int) -> None:
    """Binds this process to one of its cores where JAX would take the CPU, so that XLA has one thread; before JAX."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("TPU_VISIBLE_CHIPS"):
        return
    if hasattr(os, "sched_setaffinity") and os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[place % len(cores)]})


def answer_to(job: dict[str, Any], tell: Any) -> dict[str, Any]:
    """Trains what a job names: {"status"} or {"error"}."""
    from t5x_like.data.pipeline import build_dataset
    from t5x_like.training.loop import train
    from t5x_like.training.run_folder import load_config
    from t5x_like.training.startup import configure_jax
    from t5x_like.training.trunk import Trunk

    try:
        configure_jax()
        run, trunk = job["run"], job["trunk"]
        if trunk is not None:
            trunk = Trunk(trunk["keep_at"], trunk["parent"] and Path(trunk["parent"]))
        config = load_config(Path(run))
        name = (config.data, config.seed)
        if name not in _datasets:
            _datasets[name] = build_dataset(config.data, config.seed)
        summary = train(config, run, dataset=_datasets[name], reporter=_Teller(tell), trunk=trunk)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {"status": summary["status"]}


_datasets: dict[Any, Any] = {}  # of this process, by data and seed


def _read_jobs(jobs: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    jobs.put(None)
    os.kill(os.getpid(), signal.SIGTERM)


class _Teller(Silent):
    """Sends the step to the sweep."""

    def __init__(self, tell: Any):
        self._tell = tell

    def start(self, step: int, total: int) -> None:
        self._tell(step=step)

    def update(self, step: int, loss: float, tokens_per_second: float | None) -> None:
        self._tell(step=step, loss=loss)

    def note(self, text: str) -> None:
        print(text, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
