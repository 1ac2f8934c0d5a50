# SPDX-License-Identifier: Apache-2.0
"""Whether an ability appears at a size, or only a metric makes it look so (Schaeffer et al. 2023)."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError, unknown_name
from t5x_like.scaling.fitting.runs import read_object


def emergence(sweep: Path, task: str) -> dict[str, Any]:
    """The scores on a task of a sweep's finished runs by size; runs of one size are averaged.

    Returns:
      "params" [sizes], ascending, "target_tokens", and "metrics": {name: {"value", "low", "high": [sizes] each,
      "emergence_score": see below, "largest_step": the share of the whole change that lies between two neighbours}}.

    Raises:
      UserError: no sweep, fewer than three sizes, or a run that was not scored on the task.
    """
    path = sweep / "points.csv"
    rows = list(csv.DictReader(path.open())) if path.is_file() else []
    by_size: dict[int, list[dict[str, Any]]] = {}
    for row in (row for row in rows if row["status"] == "finished"):
        tasks = read_object(sweep / row["run"] / "evaluation.json").get("tasks", {})
        if not tasks:
            raise UserError(f"{sweep / row['run']}: was not scored; run scripts/evaluate.py --workdir={sweep} --tasks=")
        if task not in tasks:
            raise unknown_name("--task", task, tasks)
        by_size.setdefault(round(float(row["params"])), []).append(tasks[task])
    if len(by_size) < 3:
        raise UserError(f"{sweep}: {len(by_size)} sizes have finished; expected three or more")
    sizes = sorted(by_size)
    metrics: dict[str, Any] = {}
    for name in by_size[sizes[0]][0]["metrics"]:
        found = [[each["metrics"][name] for each in by_size[size]] for size in sizes]
        ends = ("value", "low", "high")
        metrics[name] = {
            end: [float(np.mean([each.get(end, np.nan) for each in size])) for size in found] for end in ends
        }
        metrics[name] |= sharpness(metrics[name]["value"])
    return {"params": sizes, "target_tokens": by_size[sizes[0]][0].get("target_tokens"), "metrics": metrics}


def sharpness(values: list[float]) -> dict[str, float | None]:
    """How abruptly scores change from size to size.

    The emergence score of Srivastava et al. (2022, appendix B, "breakthroughness") is the range over the root of the
    median squared step, negative where scores fall; None where most steps are 0 and it has no bound.
    """
    steps, spread = np.diff(values), max(values) - min(values)
    typical = float(np.sqrt(np.median(steps**2)))
    sign = np.sign(int(np.argmax(values)) - int(np.argmin(values)))
    score = float(sign * spread / typical) if typical else None
    return {"emergence_score": score, "largest_step": float(np.abs(steps).max() / spread) if spread else None}
