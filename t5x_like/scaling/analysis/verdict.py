# SPDX-License-Identifier: Apache-2.0
"""A finished run against what a law said of it, and the law fitted again with that run among its points."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.files import read_json
from t5x_like.scaling.fitting.fit import BOOTSTRAP, Fit, fit_scaling_law
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.saved import Prediction, SavedFit

PARAMETERS = ("params_total", "params_nonembedding", "params_active")


@dataclass(frozen=True)
class Verdict:
    """What became of a prediction."""

    params: float  # as the law counts them
    tokens: float
    loss: float
    prediction: Prediction
    times_largest: float  # compute of the run over the largest of the law's points
    law: Fit  # with the run

    @property
    def inside(self) -> bool:
        return self.prediction.low <= self.loss <= self.prediction.high

    @property
    def error(self) -> float:
        """(predicted - measured) / measured."""
        return self.prediction.loss / self.loss - 1


def verdict(fit: SavedFit, run: str | Path, bootstrap: int = BOOTSTRAP) -> Verdict:
    """Holds a finished run against a law.
    Raises UserError: no run folder, a run that has not finished, or points that are not where they were."""
    folder = Path(run)
    for name in ("summary.json", "accounting.json"):
        if not (folder / name).is_file():
            raise UserError(f"--run={folder}: has no {name}; accepted: the folder of a run that has finished")
    summary, accounting = (read_json(folder / name) for name in ("summary.json", "accounting.json"))
    if summary["status"] != "finished":
        raise UserError(f"--run={folder}: its status is {summary['status']!r}; accepted: a run that has finished")
    counted = fit.params_column if fit.params_column in PARAMETERS else "params_nonembedding"
    if fit.params_column == "params_compute":
        told = "its law counts a sixth of a target's FLOPs; accepted: a count of parameters"
        raise UserError(f"--fit={fit.path}: {told}")
    params, tokens, loss = float(accounting[counted]), float(summary["tokens"]), float(summary["loss"])
    points = fit.points()
    if folder.name in points.columns.get("run", ()):
        raise UserError(f"--run={folder}: is one of the points of {fit.path}; accepted: a run that the law did not see")
    grown = _with(points, folder.name, params, tokens, loss)
    again = fit_scaling_law(grown, fit.law, bootstrap=bootstrap)
    compute = 6 * params * tokens
    return Verdict(params, tokens, loss, fit.predict(params, tokens), compute / fit.largest, again)


def _with(points: Points, name: str, params: float, tokens: float, loss: float) -> Points:
    """The points and one more; of other columns it has what a run by itself has."""
    known: dict[str, Any] = {"run": name, "trunk": name, "status": "finished", "unique_tokens": tokens}
    columns = {
        column: np.concatenate([values, [known.get(column, "" if values.dtype.kind == "U" else np.nan)]])
        for column, values in points.columns.items()
    }
    own = {"params": params, "tokens": tokens, "loss": loss}
    longer: Any = {column: np.append(getattr(points, column), value) for column, value in own.items()}
    return dataclasses.replace(points, columns=columns, **longer)
