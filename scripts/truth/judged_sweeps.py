# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a process of known entropy, law by law: how far off is E, and does its interval hold the truth?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError
from t5x_like.scaling.analysis.leaderboard import leaderboard
from t5x_like.scaling.fitting import runs
from t5x_like.scaling.fitting.fit import fit_scaling_law
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.pairs import Pair

Progress = Callable[[int, int], None]

BOOTSTRAP = 400


@dataclass(frozen=True)
class Verdict:
    """One law on one sweep: E minus the exact entropy in nats (None without E), E's interval, the held-out errors."""

    law: str
    E: float | None
    error: float | None
    interval: Pair | None
    residual: float
    leave_one_out: float
    rolling: float | None

    @property
    def holds(self) -> bool | None:
        """Whether the interval holds the exact entropy."""
        if self.interval is None or self.E is None or self.error is None:
            return None
        low, high = self.interval
        truth = self.E - self.error
        return (low is None or low <= truth) and (high is None or truth <= high)


@dataclass(frozen=True)
class Judgement:
    """A sweep's verdicts, best law by held-out error first.

    Attributes:
      name: of the folder.
      process: of `data.kind`.
      entropy: exact, in nats per token.
      points: how many were fitted.
      lowest: the lowest loss among them.
      warnings: of reading the points.
      refused: laws that the points cannot determine.
      verdicts: of the laws.
    """

    name: str
    process: str
    entropy: float
    points: int
    lowest: float
    warnings: tuple[str, ...]
    refused: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def judge_sweep(
    folder: str | Path,
    *,
    laws: Sequence[str | Law] | None = None,
    bootstrap: int = BOOTSTRAP,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judgement:
    """Fits laws to a sweep on a process of known entropy and holds its E against it.

    Args:
      folder: of the sweep; its sweep.json has `exact_entropy`.
      laws: names or laws; `leaderboard.entrants` by default.
      bootstrap: replicates for the intervals of E, at least 100.
      seed: of the bootstrap.
      progress: called with (laws done, all laws).

    Raises:
      UserError: no sweep there, or one on data whose entropy nobody knows.
    """
    points = read_points(folder)
    if points.exact_entropy is None:
        raise UserError(
            f"{folder}: its sweep.json has no exact_entropy; expected a sweep on a process of known entropy, "
            "such as configs/sweeps/markov.py makes"
        )
    ranking = leaderboard(points, laws)
    verdicts = []
    for done, row in enumerate(ranking["rows"]):
        verdicts.append(_verdict(points, points.exact_entropy, row, bootstrap, seed))
        if progress:
            progress(done + 1, len(ranking["rows"]))
    return Judgement(
        name=_folder(folder).absolute().name,
        process=_process(_folder(folder)),
        entropy=points.exact_entropy,
        points=len(points),
        lowest=float(points.loss.min()),
        warnings=points.warnings,
        refused=tuple(ranking["refused"]),
        verdicts=tuple(verdicts),
    )


def _verdict(points: Points, entropy: float, row: dict[str, Any], bootstrap: int, seed: int) -> Verdict:
    E = row["values"].get("E")
    interval = None
    if E is not None:
        fit = fit_scaling_law(points, row["law"], bootstrap=bootstrap, seed=seed)
        E, interval = fit.parameters["E"], fit.intervals["E"]
    return Verdict(
        law=row["law"],
        E=E,
        error=None if E is None else E - entropy,
        interval=interval,
        residual=row["residual_rms"],
        leave_one_out=row["leave_one_out_rms"],
        rolling=row["rolling_origin_rms"],
    )


def _folder(given: str | Path) -> Path:
    """The sweep's folder, also where its points.csv was named."""
    return Path(given) if Path(given).is_dir() else Path(given).parent


def _process(folder: Path) -> str:
    """The `data.kind` of a sweep's base config, or nothing where sweep.json does not say."""
    base = runs.read_object(folder / "sweep.json").get("base")
    data = base.get("data") if isinstance(base, dict) else None
    return str(data.get("kind", "")) if isinstance(data, dict) else ""
