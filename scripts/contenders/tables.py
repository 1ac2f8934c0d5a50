# SPDX-License-Identifier: Apache-2.0
"""What sections share: how long to measure, and the lines of their tables.

A section is a function of `Settings` that yields `Row`s; its contenders are timed in turns (see `turns`).
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contenders.turns import Contender, Result, measure

HERE = "contenders"  # where factories are
# The two shapes of every comparison: width, layers, heads, length, batch, vocabulary.
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"width": 128, "layers": 4, "heads": 4, "length": 256, "batch": 16, "vocab": 4096},
    "small": {"width": 384, "layers": 6, "heads": 6, "length": 256, "batch": 8, "vocab": 8192},
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long to measure.

    Attributes:
      shapes: names of `SHAPES`.
      rounds, seconds: of every contender's turns.
      lengths: of the attention section.
      steps: of the runs of the loop section.
      train_script: scripts/train.py.
      told: gets a line now and then.
    """

    shapes: tuple[str, ...] = tuple(SHAPES)
    rounds: int = 5
    seconds: float = 2.0
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384)
    steps: int = 1000
    train_script: Path = Path("scripts/train.py")
    told: Callable[[str], None] = print

    def measure(self, contenders: list[Contender]) -> dict[str, Result]:
        return measure(contenders, rounds=self.rounds, seconds=self.seconds, told=self.told)


@dataclasses.dataclass
class Row:
    """A line of a section's table: what was measured, and what that is beside others of the same run.

    Attributes:
      subject: e.g. "small, batch 16, greedy".
      contender: who.
      rate, unit: the median over rounds; None when it could not be set up, and `note` says why.
      ratios: {"to PyTorch eager": (median, least, greatest)}, each taken within a round.
      measures: further numbers by name, for pictures.
    """

    subject: str
    contender: str
    rate: float | None
    unit: str
    ratios: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    note: str = ""
    measures: dict[str, float] = dataclasses.field(default_factory=dict)


def rows_of(
    subject: str,
    unit: str,
    results: dict[str, Result],
    against: tuple[str, ...],
    note: Callable[[Result], str] = lambda result: "",
) -> Iterator[Row]:
    """A line for each result, beside those of the names in `against`."""
    for result in results.values():
        if result.error is not None:
            yield Row(subject, result.name, None, unit, note=result.error)
            continue
        rivals = [results[name] for name in against if name != result.name and name in results]
        ratios = {f"to {rival.name}": result.ratio(rival) for rival in rivals if rival.error is None}
        yield Row(subject, result.name, result.rate, unit, ratios, note(result))


Section = Callable[[Settings], Iterator[Row]]
