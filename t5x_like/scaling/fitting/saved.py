# SPDX-License-Identifier: Apache-2.0
"""A law as a fit.json holds it: what it says of a run before anyone fits again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.files import read_json
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.laws.catalogue import get_law
from t5x_like.scaling.laws.frontier import BEYOND, FRESH, can_share, frontier
from t5x_like.scaling.laws.laws import Law

Array = np.ndarray
_NORMAL = 1.96  # 95 % of a run's own noise


@dataclass(frozen=True)
class Prediction:
    """The loss of one run in nats per token, and the 95 % interval in which it should lie."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class SavedFit:
    """What a fit.json says."""

    path: Path
    law: Law
    parameters: dict[str, float]
    rows: list[dict[str, Any]]  # of its compute-optimal table, with intervals
    largest: float  # compute of the points, FLOPs as 6 params tokens
    noise: float  # root mean square of its residuals, as a share of the loss
    params_column: str  # which count the law calls params
    source: str  # of the points, as it was given

    @property
    def vector(self) -> Array:
        return np.array([self.parameters[name] for name in self.law.parameters])

    @property
    def limit(self) -> float:
        """FLOPs up to which the law is asked."""
        return BEYOND * self.largest

    @property
    def sweep(self) -> Path | None:
        """The folder of the sweep that the points came from, if it is still there."""
        folder = Path(self.source)
        folder = folder.parent if folder.suffix else folder
        for place in (folder, self.path.parent.parent):  # where it was, or beside the fit, if both were moved
            if (place / "sweep.json").is_file():
                return place
        return None

    def optimum(self, flops: float) -> tuple[float, float]:
        """The compute-optimal params and tokens of a budget."""
        found = frontier(self.law, self.vector, np.array([flops]))
        return float(found.params[0]), float(found.tokens[0])

    def predict(self, params: float, tokens: float) -> Prediction:
        """The loss of a run, of its own noise and the law's uncertainty.
        The law's is that of the compute-optimal run of the same compute, between the rows of the fit's table."""
        sizes = {**FRESH, "params": params, "tokens": tokens, "compute": 6 * params * tokens}
        variables = {name: np.asarray(sizes[name]) for name in self.law.variables}
        loss = float(self.law.predict(self.parameters, variables))
        at = np.log(6 * params * tokens)
        below, above = (np.hypot(abs(np.log(self._end(at, which))), _NORMAL * self.noise) for which in (0, 1))
        return Prediction(loss, loss * float(np.exp(-below)), loss * float(np.exp(above)))

    def _end(self, at: float, which: int) -> float:
        """An end of the law's interval over its loss, at a logarithm of compute."""
        known = [row for row in self.rows if row["intervals"]["loss"][which] is not None]
        shares = [np.log(row["intervals"]["loss"][which] / row["loss"]) for row in known]
        return float(np.exp(np.interp(at, [np.log(row["flops"]) for row in known], shares)))

    def flops_for(self, loss: float) -> float:
        """The least compute for which the law promises a loss. Raises UserError: more than the law supports."""
        grid = np.geomspace(self.rows[0]["flops"] / BEYOND, self.limit, 2000)
        losses = frontier(self.law, self.vector, grid).loss
        if loss < losses[-1]:
            floor = f" (no size or data brings it below {self.parameters['E']:.4g})" if "E" in self.parameters else ""
            raise UserError(
                f"--loss={loss:g}: the law supports {BEYOND:g} times the largest compute of its points, which gives "
                f"{losses[-1]:.4g}{floor}; accepted: that or more, or a sweep of more compute"
            )
        return float(np.exp(np.interp(-loss, -losses, np.log(grid))))

    def check(self, flops: float, given: str) -> None:
        """Refuses a budget that the law says nothing of."""
        if not flops <= self.limit * (1 + 1e-9):
            raise UserError(
                f"{given}: is {flops / self.largest:.3g} times the largest compute of the points, and the law supports "
                f"{BEYOND:g} times; accepted: up to {self.limit:.3g} FLOPs, or a sweep of more compute"
            )

    def points(self) -> Points:
        """The points that it was fitted to."""
        column = None if self.params_column == "params" else self.params_column
        place = self.sweep or Path(self.source)
        points = read_points(place)
        return points if column in (None, points.params_column) else read_points(place, column)


def read_fit(path: str | Path) -> SavedFit:
    """Reads a fit.json, or the one of a folder.
    Raises UserError: no such file, a law that does not share compute, or a fit without intervals."""
    path = Path(path) / "fit.json" if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise UserError(f"--fit={path}: no such file; accepted: what scripts/fit.py has written")
    content = read_json(path)
    law = get_law(content["law"])
    best = content.get("compute_optimal")
    if not can_share(law) or not best:
        raise UserError(f"--fit={path}: its law, {law.name}, does not say how to share compute; accepted: --law=best")
    if not all("intervals" in row for row in best["rows"]):
        raise UserError(f"--fit={path}: has no intervals; accepted: a fit with --bootstrap=100 or more")
    largest, noise, counted = (content[name] for name in ("largest_flops", "residual_rms", "params_column"))
    source = content["provenance"]["points"]
    return SavedFit(path, law, content["parameters"], best["rows"], largest, noise, counted, source)
