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

    from t5x_like.config import RunConfig
    from t5x_like.data.pipeline import build_dataset
    from t5x_like.training.loop import train
    from t5x_like.training.run_folder import load_config
    from t5x_like.training.startup import configure_jax
    from t5x_like.training.trunk import Trunk

    configure_jax()
    datasets: dict[Any, Any] = {}

    def dataset(config: RunConfig) -> Any:
        name = (config.data, config.seed)
        if name not in datasets:
            datasets[name] = build_dataset(config.data, config.seed)
        return datasets[name]

    while (job := jobs.get()) is not None:
        try:
            run, trunk = job["run"], job["trunk"]
            if trunk is not None:
                trunk = Trunk(trunk["keep_at"], trunk["parent"] and Path(trunk["parent"]))
            config = load_config(Path(run))
            summary = train(config, run, dataset=dataset(config), reporter=_Teller(tell), trunk=trunk)
            tell(status=summary["status"])
        except Exception as error:
            traceback.print_exc()
            tell(error=f"{type(error).__name__}: {error}")


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
