# SPDX-License-Identifier: Apache-2.0
"""What the fit reads out of a sweep's run folders: data fingerprints, training curves, a sample of text."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.files import read_json

Array = np.ndarray

DECAYED = 0.2  # of the peak: logging every few steps may miss the last steps of a decay to 0


@dataclass(frozen=True)
class Curve:
    """A run's held-out loss as it trained (its training loss without evaluations): tokens [t], nats per token [t]."""

    run: str
    params: float
    tokens: Array
    loss: Array


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} where there is no file."""
    return read_json(path) if path.is_file() else {}


def fingerprints(folder: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct data fingerprints in the environment.json of the named run folders."""
    data = [read_object(folder / name / "environment.json").get("data") for name in names if name]
    found = {str(d["fingerprint"]) for d in data if isinstance(d, dict) and d.get("fingerprint")}
    return tuple(sorted(found))


def undecayed(folder: Path, names: Iterable[str]) -> list[str]:
    """Returns the runs whose learning rate ended above a fifth of its peak: their schedules did not end with them."""
    found = []
    for name in names:
        rates = [line["learning_rate"] for line in lines_of(folder, name) if _positive(line, "learning_rate")]
        if len(rates) > 2 and rates[-1] > DECAYED * max(rates):
            found.append(name)
    return found


def read_curves(folder: Path, names: Iterable[str], params: Iterable[float]) -> list[Curve]:
    """Reads metrics.jsonl of the named run folders, passing over runs with fewer than two usable lines."""
    curves = []
    for name, size in zip(names, params, strict=True):
        lines = lines_of(folder, name)
        chosen = [line for line in lines if line.get("split") == "eval" and "dataset" not in line]
        chosen = chosen if len(chosen) > 2 else [line for line in lines if line.get("split") == "train"]
        usable = [line for line in chosen if _positive(line, "tokens", "loss")]
        pairs = np.array([(line["tokens"], line["loss"]) for line in usable], float)
        if len(pairs) >= 2:
            curves.append(Curve(name, float(size), pairs[:, 0], pairs[:, 1]))
    return curves


def lines_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where there is no such file."""
    path = folder / name / "metrics.jsonl"
    if not name or not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # an interrupted run may have written half a line
            lines.append(json.loads(text))
    return [line for line in lines if isinstance(line, dict)]


def _positive(line: dict[str, Any], *names: str) -> bool:
    return all(isinstance(line.get(name), int | float) and np.isfinite(line[name]) and line[name] > 0 for name in names)


def read_sample(folder: Path | None) -> str | None:
    """Returns the text of the sweep's sample.txt (written by its largest model), if there is one."""
    path = folder / "sample.txt" if folder else None
    return path.read_text(errors="replace") if path and path.is_file() else None
