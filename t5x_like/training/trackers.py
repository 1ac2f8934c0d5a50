# SPDX-License-Identifier: Apache-2.0
"""Where log lines go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

The services are set up as their own documents say: `wandb login`, WANDB_PROJECT, WANDB_MODE=offline;
MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME. A run that goes on does so in the same run of a service:
trackers.json in its folder has the number.
"""

import importlib.util
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from flax.traverse_util import flatten_dict

from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.files import read_json, write_json
from t5x_like.strict import to_dict
from t5x_like.training.tensorboard import EventFile

PROJECT = "t5x_like"
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}  # {tracker: what is imported}


class Tracker(Protocol):
    """Takes the numbers of a step by their names, such as "train/loss"."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_trackers(config: RunConfig) -> None:
    """Refuses a tracker whose package is not there, before anything is trained."""
    for name in config.execution.trackers:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"execution.trackers: {name!r} needs a package; pip install -c constraints.txt -e '.[{name}]'"
            )


def open_trackers(config: RunConfig, folder: Path, name: str, step: int) -> list[Tracker]:
    """The trackers of a run called `name` that has taken so many steps; UserError: a service cannot be reached."""
    opened: list[Tracker] = [EventFile(folder / "tensorboard", step + 1)] if config.training.tensorboard else []
    for each in config.execution.trackers:
        try:
            opened.append(_KINDS[each](config, folder, name))
        except Exception as error:  # whatever its client raises
            raise UserError(f"execution.trackers: {each}: {type(error).__name__}: {error}") from error
    return opened


class WandbTracker:
    """A run of Weights & Biases."""

    def __init__(self, config: RunConfig, folder: Path, name: str):
        import wandb

        self._run = wandb.init(
            project=wandb.Settings().project or PROJECT,
            id=_known(folder, "wandb", lambda: uuid.uuid4().hex[:8]),
            name=name,
            config=to_dict(config),
            dir=folder,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlflowTracker:
    """A run of MLflow."""

    MOST = 500  # characters of a parameter, and below the 1,000 metrics that one call may send

    def __init__(self, config: RunConfig, folder: Path, name: str):
        from mlflow import MlflowClient
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME

        self._client = client = MlflowClient()
        wanted = MLFLOW_EXPERIMENT_NAME.get() or PROJECT
        experiment = client.get_experiment_by_name(wanted)
        number = client.create_experiment(wanted) if experiment is None else experiment.experiment_id
        self._run = _known(folder, "mlflow", lambda: client.create_run(number, run_name=name).info.run_id)
        client.update_run(self._run, status="RUNNING")
        for key, value in flatten_dict(to_dict(config), sep=".").items():
            client.log_param(self._run, key, str(value)[: self.MOST])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for first in range(0, len(metrics), self.MOST):
            self._client.log_batch(self._run, metrics=metrics[first : first + self.MOST])

    def close(self) -> None:
        self._client.set_terminated(self._run)


_KINDS: dict[str, Callable[[RunConfig, Path, str], Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


def _known(folder: Path, tracker: str, new: Callable[[], Any]) -> str:
    """The number of this run with a service, a new one where it has none."""
    path = folder / "trackers.json"
    numbers = read_json(path) if path.is_file() else {}
    if tracker not in numbers:
        numbers[tracker] = str(new())
        write_json(path, numbers)
    return str(numbers[tracker])
