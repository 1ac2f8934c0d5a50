# SPDX-License-Identifier: Apache-2.0
"""Runs while they train: what their metrics.jsonl say so far, as a picture for the terminal and as JSON for a page."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError, nearest

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille letter, by row and column


@dataclass
class Watched:
    """One run folder. `lines` are those of metrics.jsonl that have been read, `_at` is where to go on reading."""

    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    total: int | None = None  # steps of the run, where its config says so
    _at: int = 0

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        """That of summary.json; "training" before there is one."""
        try:
            return str(json.loads((self.folder / "summary.json").read_text())["status"])
        except (OSError, ValueError, KeyError):
            return "training" if self.lines else "waiting"

    def read(self) -> None:
        """Reads whole lines that were written since the last call; starts over where the file has become shorter."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        if path.stat().st_size < self._at:
            self.lines, self._at = [], 0
        with path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        self.lines += [json.loads(line) for line in whole.splitlines() if line.strip()]

    def curve(self, metric: str, split: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric; lines that have it not, or not as a finite number, are passed over."""
        chosen = [line for line in self.lines if line.get("split") == split and "dataset" not in line]
        usable = [line for line in chosen if isinstance(line.get(metric), int | float) and math.isfinite(line[metric])]
        return [float(line["step"]) for line in usable], [float(line[metric]) for line in usable]


def watched(paths: Sequence[str]) -> list[Watched]:
    """The run folders that are named, or that a named sweep folder holds, in order.
    Raises UserError: a folder that is neither."""
    found = []
    for path in map(Path, paths):
        if (path / "config.json").is_file():
            runs = [path]
        elif (path / "sweep.json").is_file():
            cells = json.loads((path / "sweep.json").read_text()).get("cells", [])
            runs = [path / cell for cell in cells if (path / cell / "config.json").is_file()]
        else:
            near = [str(entry.parent) for entry in path.parent.glob("*/config.json")] if path.parent.is_dir() else []
            raise UserError(f"{path}: is neither a run folder nor a sweep's{nearest(str(path), near)}")
        for run in runs:
            training = json.loads((run / "config.json").read_text()).get("training", {})
            found.append(Watched(run, total=training.get("steps")))
    return found


def newest(runs: Sequence[Watched], most: int) -> list[Watched]:
    """The runs to show where there are more: those that train, then those that ended last."""

    def when(run: Watched) -> tuple[bool, float]:
        path = run.folder / "metrics.jsonl"
        return run.status == "training", path.stat().st_mtime if path.is_file() else 0.0

    chosen = sorted(runs, key=when, reverse=True)[:most]
    return [run for run in runs if run in chosen]


def braille(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]], width: int, height: int
) -> list[tuple[str, list[int]]]:
    """Curves drawn in dots, two by four a letter, and under each letter the number of the last curve there.
    Returns one (text, owners) a row: owners[i] is the curve of letter i, -1 where there is none."""
    reach = [x for xs, _ in curves for x in xs]
    points = []
    for i, (xs, ys) in enumerate(curves):
        if not xs:
            continue
        grid = np.linspace(min(reach), max(reach), 2 * width)
        between = grid[(grid >= min(xs)) & (grid <= max(xs))]  # a line from point to point
        points += [(x, y, i) for x, y in zip(between, np.interp(between, xs, ys), strict=True)]
        points += [(x, y, i) for x, y in zip(xs, ys, strict=True)]
    dots = [[0] * width for _ in range(height)]
    owners = [[-1] * width for _ in range(height)]
    if points:
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        low, high, left, right = min(ys), max(ys), min(xs), max(xs)
        for x, y, i in points:
            column = round((x - left) / ((right - left) or 1) * (2 * width - 1))
            row = round((high - y) / ((high - low) or 1) * (4 * height - 1))
            dots[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
            owners[row // 4][column // 2] = i
    return [("".join(chr(0x2800 + dot) for dot in row), own) for row, own in zip(dots, owners, strict=True)]


def as_json(runs: Sequence[Watched], metric: str) -> dict[str, Any]:
    """What the page asks for."""
    return {
        "metric": metric,
        "runs": [
            {
                "name": run.name,
                "status": run.status,
                "total": run.total,
                **{split: dict(zip(("x", "y"), run.curve(metric, split), strict=True)) for split in ("train", "eval")},
                "last": run.lines[-1] if run.lines else None,
                "rate": next(iter(run.curve("tokens_per_second", "train")[1][::-1]), None),
            }
            for run in runs
        ],
    }
