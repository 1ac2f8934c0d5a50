# SPDX-License-Identifier: Apache-2.0
"""Whether an ability appears at a size, or only a metric makes it look so (Schaeffer et al. 2023)."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.runs import read_object


def emergence(sweep: Path, task: str) -> dict[str, Any]:
    """The scores on a task of a sweep's finished runs by size, those of one size averaged: "params" [sizes], ascending,
    "target_tokens", and "metrics": {name: {"value", "low", "high": [sizes] each, and what `sharpness` says}}.

    A run that was not scored on the task, or fewer than three sizes, is a `UserError`.
    """
    path = sweep / "points.csv"
    by_size: dict[int, list[dict[str, Any]]] = {}
    for row in csv.DictReader(path.open()) if path.is_file() else ():
        if row["status"] == "finished":
            tasks = read_object((run := sweep / row["run"]) / "evaluation.json").get("tasks", {})
            if task not in tasks:
                raise UserError(f"{run}: was not scored on {task!r}, but on {', '.join(tasks) or 'nothing'}")
            by_size.setdefault(round(float(row["params"])), []).append(tasks[task])
    if len(by_size) < 3:
        raise UserError(f"{sweep}: {len(by_size)} sizes have finished; expected three or more")
    first, *_ = runs = [by_size[size] for size in sorted(by_size)]
    metrics: dict[str, Any] = {}
    for name, ends in first[0]["metrics"].items():
        found = [[each["metrics"][name] for each in same] for same in runs]
        metrics[name] = {end: [float(np.mean([each[end] for each in same])) for same in found] for end in ends}
        metrics[name] |= sharpness(metrics[name]["value"])
    return {"params": sorted(by_size), "target_tokens": first[0].get("target_tokens"), "metrics": metrics}


def sharpness(values: list[float]) -> dict[str, float | None]:
    """How abruptly scores change from size to size: "largest_step", as a share of their range, and "emergence_score",
    the range over the root of the median squared step, negative where scores fall ("breakthroughness", Srivastava et
    al. 2022, appendix B). None: most steps are 0, and it has no bound; or the range is 0."""
    steps, spread = np.diff(values), float(np.ptp(values))
    typical = float(np.sqrt(np.median(steps**2))) * (-1 if np.argmax(values) < np.argmin(values) else 1)
    step = float(np.abs(steps).max() / spread) if spread else None
    return {"emergence_score": spread / typical if typical else None, "largest_step": step}
