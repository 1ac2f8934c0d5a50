# SPDX-License-Identifier: Apache-2.0
"""The cells of a design, plain grids of them, and how people write them: ranges, lists, files."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize

from t5x_like.errors import UserError
from t5x_like.files import read_json
from t5x_like.scaling.fitting import columns as tables
from t5x_like.scaling.fitting.points import read_points
from t5x_like.scaling.fitting.surface import SAME

Array = np.ndarray

PARAMS, TOKENS = "1e4:1e6", "2e5:4e6"
LEVELS = 11  # sizes, and token counts, that a range is divided into
_CLOSEST = 1.1  # two levels differ by this factor at least


@dataclass(frozen=True)
class At:
    """Where a prediction is wanted: a cell, or the best cell of a compute."""

    flops: float
    params: float | None = None
    tokens: float | None = None


@dataclass(frozen=True)
class Cells:
    """Runs of a sweep: params and tokens [c] of different cells, and how often each is run, [c]."""

    params: Array
    tokens: Array
    counts: Array

    @classmethod
    def of(cls, params: Any, tokens: Any) -> "Cells":
        """Counts runs [n] that repeat a cell."""
        pairs, counts = np.unique(np.stack([tokens, params], 1).astype(float), axis=0, return_counts=True)
        return cls(pairs[:, 1], pairs[:, 0], counts)

    @classmethod
    def product(cls, params: Array, tokens: Array) -> "Cells":
        """Returns every pair of the sizes and token counts, once each."""
        pairs = np.meshgrid(params, tokens, indexing="ij")
        return cls(pairs[0].ravel(), pairs[1].ravel(), np.ones(pairs[0].size, int))

    @property
    def cost(self) -> float:
        """FLOPs of all runs."""
        return float(6 * (self.params * self.tokens * self.counts).sum())

    @property
    def largest(self) -> float:
        """FLOPs of the largest run."""
        return float(6 * (self.params * self.tokens).max())

    @property
    def runs(self) -> tuple[Array, Array]:
        """Params and tokens of every run, [n] each."""
        return np.repeat(self.params, self.counts), np.repeat(self.tokens, self.counts)

    def __len__(self) -> int:
        return int(self.counts.sum())


def plain_grid(k: int, params: Array, tokens: Array, cost: float, most: int) -> Cells | None:
    """Returns the k x k grid, even in logarithms, that costs this much; None where there is none.

    It begins at the smallest size and token count and ends as far up both ranges as the cost allows; a whole range that
    costs less is repeated, as long as there are no more than `most` runs.
    """

    def grid(share: float) -> Cells:
        axes = (np.geomspace(v.min(), v.min() * (v.max() / v.min()) ** share, k) for v in (params, tokens))
        return Cells.product(*axes)

    if k * k > most or grid(0.1).cost > cost:
        return None
    whole = grid(1.0)
    if whole.cost <= cost:
        times = max(1, min(int(cost / whole.cost), most // (k * k)))
        return Cells(whole.params, whole.tokens, whole.counts * times)
    return grid(optimize.brentq(lambda share: grid(share).cost - cost, 0.1, 1.0, xtol=1e-15))


def number(flag: str, text: str) -> float:
    """Reads 2e5, 200000 or 200k. Raises UserError: it is not a positive number."""
    try:
        value = tables.number(text.strip().upper())
    except ValueError:
        raise UserError(f"--{flag}: {text!r} is no number; expected one such as 2e5 or 200k") from None
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"--{flag}: {text!r}; expected a number above 0")
    return value


def levels(flag: str, text: str) -> Array:
    """Reads `low:high`, divided evenly in logarithms and rounded to three digits, or a list `a,b,c`, as is.
    Raises UserError: fewer than three values."""
    example = TOKENS if flag == "tokens" else PARAMS
    if ":" not in text:
        values = np.unique([number(flag, part) for part in text.split(",") if part.strip()])
        distinct = np.count_nonzero(np.diff(np.log(values), prepend=-np.inf) > SAME)
        if distinct < 3:
            raise UserError(
                f"--{flag}={text} has {('no value', 'one value', 'two values')[distinct]}; a law needs at least three, "
                f"to tell how fast the loss falls from where it ends: give a range such as {example}, or a,b,c"
            )
        return values
    ends = [number(flag, part) for part in text.split(":")]
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise UserError(f"--{flag}={text}: expected low:high, such as {example}, or a list a,b,c")
    count = min(LEVELS, 1 + math.floor(math.log(ends[1] / ends[0]) / math.log(_CLOSEST) + 1e-9))
    if count < 3:
        raise UserError(
            f"--{flag}={text} spans a factor of {ends[1] / ends[0]:.3g} only, too little for three sizes that differ; "
            f"give a range such as {example}"
        )
    return np.array([float(f"{value:.3g}") for value in np.geomspace(ends[0], ends[1], count)])


def place(text: str) -> At:
    """Reads `--at`: FLOPs, or params:tokens."""
    parts = text.split(":")
    if len(parts) == 1:
        return At(number("at", text))
    if len(parts) != 2:
        raise UserError(f"--at={text}: expected FLOPs such as 1e18, or params:tokens such as 1e7:2e8")
    params, tokens = (number("at", part) for part in parts)
    return At(6 * params * tokens, params, tokens)


def read_cells(text: str, params: Array, tokens: Array) -> Cells:
    """Reads `--check`: a CSV with params and tokens, a design.json, a folder with either, cells, or a grid.

    Cells are `1e4:2e5,1e4:4e5,...`; a grid is `4x5`, sizes and token counts between the ends of params and tokens.
    Raises UserError: it is none of these.
    """
    if re.fullmatch(r"[1-9]\d?x[1-9]\d?", text):
        axes = (np.geomspace(v.min(), v.max(), int(k)) for v, k in zip((params, tokens), text.split("x"), strict=True))
        return Cells.product(*axes)
    path = Path(text)
    if path.is_dir():
        path = path / ("design.json" if (path / "design.json").is_file() else "points.csv")
    if path.is_file():
        return _from_design(path) if path.suffix == ".json" else _from_csv(path)
    if ":" not in text:
        raise UserError(
            f"--check={text}: no such file; give a CSV with the columns params and tokens, a design.json, a grid such "
            "as 4x4, or cells as params:tokens with commas between them"
        )
    pairs = [part.split(":") for part in text.split(",") if part.strip()]
    if odd := [pair for pair in pairs if len(pair) != 2]:
        raise UserError(f"--check: {':'.join(odd[0])!r}; expected cells as params:tokens with commas between them")
    return Cells.of([number("check", n) for n, _ in pairs], [number("check", d) for _, d in pairs])


def _from_csv(path: Path) -> Cells:
    table = tables.read_csv(path)
    if not table.labels or not {"params", "tokens"} <= set(table.columns):
        raise UserError(f"--check={path}: expected the columns params and tokens, and a row for every run")
    if "loss" in table.columns:  # finished runs: several learning rates of one cell are one run of it
        points = read_points(path)
        return Cells.of(points.params, points.tokens)
    return Cells.of(*([number("check", cell) for cell in table.columns[name]] for name in ("params", "tokens")))


def _from_design(path: Path) -> Cells:
    content = read_json(path)
    try:
        rows = [(float(row["params"]), float(row["tokens"]), int(row["runs"])) for row in content["cells"]]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"--check={path}: is no design.json of scripts/design.py") from None
    if not rows or not all(n > 0 and d > 0 and runs > 0 for n, d, runs in rows):
        raise UserError(f"--check={path}: has no cells, or ones that are not positive")
    return Cells.of(*Cells(*map(np.array, zip(*rows, strict=True))).runs)
