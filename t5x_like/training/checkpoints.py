# SPDX-License-Identifier: Apache-2.0
"""Checkpoints through Orbax: saved in the background, restored strictly, onto any mesh.

A checkpoint has these items: `params` (trainable and frozen), `average` (the trainable ones averaged, where the run
keeps an average), `optimizer` (its state, the step and the loss scale) and `tally` (JSON: what the loop has counted).
So a program that only wants the model reads only its parameters.
"""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from t5x_like.config import MeshConfig, ModelConfig, RunConfig
from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Params
from t5x_like.training.parameter_rules import path_name
from t5x_like.training.program import Program, program_for
from t5x_like.training.run_folder import load_config
from t5x_like.training.state import State, merge


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        handlers = {name: ocp.StandardCheckpointHandler() for name in ("params", "average", "optimizer")}
        handlers["tally"] = ocp.JsonCheckpointHandler()
        place = folder.absolute() if isinstance(folder, Path) else folder  # one in a bucket is absolute
        self._manager = ocp.CheckpointManager(place, options=options, item_handlers=handlers)
        self._folder = folder

    @property
    def latest(self) -> int | None:
        """The step of the newest one."""
        return self._manager.latest_step()

    def save(self, state: State, step: int, tally: dict[str, Any]) -> None:
        """Copies the state off the devices and writes it in the background; a step already saved is left alone."""
        if step == self.latest:
            return
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        self._manager.save(step, args=ocp.args.Composite(**items, tally=ocp.args.JsonSave(tally)))

    def restore(self, abstract: State) -> tuple[State, dict[str, Any]]:
        """Restores the newest checkpoint onto the shardings of `abstract`.

        Raises:
          UserError: the checkpoint's parameters are not the model's (names, shapes or dtypes).
        """
        step = self._manager.latest_step()
        assert step is not None
        wanted = _items(abstract)
        restored = self._restored(step, wanted, tally=ocp.args.JsonRestore())
        params, opt = restored["params"], restored["optimizer"]
        state = State(
            step=opt["step"],
            trainable=params["trainable"],
            frozen=params["frozen"],
            opt=opt["opt"],
            loss_scale=opt.get("loss_scale"),
            average=restored["average"] if "average" in wanted else {},
        )
        return state, restored["tally"]

    def restore_params(self, abstract: State, *, average: bool = True) -> Params:
        """Restores only the parameters of the newest checkpoint: averaged where an average is kept and wanted."""
        step = self._manager.latest_step()
        if step is None:
            raise UserError(f"{self._folder}: holds no checkpoint")
        averaged = average and bool(abstract.average)
        names = ["average"] if averaged and not abstract.frozen else ["params", "average"] if averaged else ["params"]
        restored = self._restored(step, {name: item for name, item in _items(abstract).items() if name in names})
        params = restored["params"] if "params" in names else {"frozen": {}}
        return merge(params["frozen"], restored["average"] if averaged else params["trainable"])

    def _restored(self, step: int, wanted: dict[str, Any], **more: Any) -> Any:
        for name, item in wanted.items():
            self._check(step, name, item)
        args = {name: ocp.args.StandardRestore(item) for name, item in wanted.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**args, **more))

    def _check(self, step: int, name: str, wanted: Any) -> None:
        """Compares names, shapes and dtypes first: Orbax would cast a wrong dtype without a word."""
        saved = _leaves(self._manager.item_metadata(step).get(name))
        expected = _leaves(wanted)
        for path in sorted(saved.keys() | expected.keys()):
            if saved.get(path) != expected.get(path):
                raise UserError(
                    f"{self._folder}/{step}: {name}/{path} is {saved.get(path, 'absent')} in the checkpoint and "
                    f"{expected.get(path, 'absent')} in this run's config"
                )

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and frees the manager's threads."""
        self.wait()
        self._manager.close()


def latest_step(folder: Path) -> int | None:
    """The step of a run folder's newest checkpoint."""
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        return checkpoints.latest


def load_trained(
    folder: str | Path,
    *,
    average: bool = True,
    mesh_for: Callable[[ModelConfig], MeshConfig] = lambda model: MeshConfig(),
) -> tuple[RunConfig, Program, Params]:
    """Reads the model of a run folder, whatever mesh and attention kernel trained it.

    Args:
      average: whether a run that averages its parameters gives the average, or those of its last step.
      mesh_for: the mesh to read a model of this config onto; by default this machine's first device.

    Raises:
      UserError: the folder is no run folder, or holds no checkpoint.
    """
    folder = Path(folder)
    config = load_config(folder)
    # A kernel asked for may not run here, and one device has no stages.
    execution = dataclasses.replace(config.execution, attention="auto", pipeline_rounds=1)
    config = dataclasses.replace(config, mesh=mesh_for(config.model), execution=execution)
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: holds no checkpoint yet")
    program = program_for(config)
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        return config, program, checkpoints.restore_params(program.abstract_state, average=average)


def _items(state: State) -> dict[str, Any]:
    """A state as the items of a checkpoint; what a run has not is absent."""
    optimizer = {"opt": state.opt, "step": state.step}
    if state.loss_scale is not None:
        optimizer["loss_scale"] = state.loss_scale
    items = {"params": {"trainable": state.trainable, "frozen": state.frozen}, "optimizer": optimizer}
    return {**items, "average": state.average} if state.average else items


def _leaves(tree: Any) -> dict[str, str]:
    """{path: "float32[3, 4]"} of a tree of arrays or of Orbax's metadata."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf, "dtype")]
    return {path_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
