# SPDX-License-Identifier: Apache-2.0
"""Checkpoints through Orbax: saved in the background, restored strictly, onto any mesh.

What is read is the newest checkpoint whose files are as they were written (`seals.py`); one that is damaged is told of
and passed over, never deleted.

A checkpoint has these items: `params` (those that are trained), `average` (the same averaged, where the run keeps an
average), `optimizer` (its state, the step and the loss scale) and `tally` (JSON: what the loop has counted). So a
program that only wants the model reads only its parameters. What is not trained lies beside the checkpoints, once
(`frozen.py`).
"""

import dataclasses
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from t5x_like.config import MeshConfig, ModelConfig, RunConfig
from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Params
from t5x_like.parallel.local_rows import as_the_first
from t5x_like.training.frozen import Frozen
from t5x_like.training.one_writer import is_writer
from t5x_like.training.orbax_folder import check_item, open_manager, writing
from t5x_like.training.program import Program, program_for
from t5x_like.training.run_folder import load_config
from t5x_like.training.seals import damage
from t5x_like.training.state import State, merge

MeshFor = Callable[[ModelConfig], MeshConfig]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one run folder; of several processes all make the same calls."""

    def __init__(self, folder: Path, keep: int = 2, note: Callable[[str], None] = tell):
        """`note` is told which checkpoint is passed over."""
        self._on_disk = isinstance(folder, Path)
        handlers: dict[str, Any] = {n: ocp.StandardCheckpointHandler() for n in ("params", "average", "optimizer")}
        self._manager = open_manager(folder, keep, handlers | {"tally": ocp.JsonCheckpointHandler()})
        self._folder, self._note = folder, note
        self._damage: dict[tuple[int, tuple[str, ...]], str | None] = {}  # of those looked at, and of those saved here

    @property
    def latest(self) -> int | None:
        """The step of the newest one that is not damaged; UserError: all of them are."""
        return self.newest()

    def newest(self, only: tuple[str, ...] = ()) -> int | None:
        """As `latest`, of those whose items `only` are not damaged; the first process looks, for all of them."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        step = as_the_first(next((i for i, step in enumerate(steps) if self._is_good(step, only)), len(steps)))
        if steps and step == len(steps):
            raise UserError(
                f"{self._folder}: each of its {len(steps)} checkpoints is damaged, none was touched; bring one back, "
                "or choose another --workdir to start anew"
            )
        return steps[step] if steps else None

    def _is_good(self, step: int, only: tuple[str, ...]) -> bool:
        if not self._on_disk or not is_writer():
            return True
        if (step, only) not in self._damage:
            self._damage[step, only] = what = damage(self._folder / str(step), only=only)
            if what is not None:
                self._note(f"{self._folder}/{step} is damaged: {what}; it is left there, and the one before is used")
        return self._damage[step, only] is None

    def make_way(self) -> None:
        """Renames damaged checkpoints, so that a run that goes on from the one before can save its own."""
        latest = self.latest
        if latest == self._manager.latest_step():
            return
        for step in [step for step in self._manager.all_steps() if step > (latest or 0)]:
            if is_writer():
                moved = self._folder / f"damaged-{step}"
                self._folder.joinpath(str(step)).rename(_free(moved))
                self._note(f"{self._folder}/{step} is now {moved.name}")
        as_the_first(0)
        self._manager.reload()

    def save(self, state: State, step: int, tally: dict[str, Any]) -> None:
        """Copies the state off the devices and writes it in the background; a step already saved is left alone.
        UserError: this one, or the one before, which was being written, finds no room or no permission."""
        if step == self.latest:
            return
        if state.frozen:
            with closing(Frozen(self._folder)) as frozen:
                frozen.save(state.frozen)
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        with writing(self._folder):
            self._manager.save(step, args=ocp.args.Composite(**items, tally=ocp.args.JsonSave(tally)))
        self._damage[step, ()] = None

    def restore(self, abstract: State) -> tuple[State, dict[str, Any]]:
        """Restores the newest checkpoint onto the shardings of `abstract`; UserError: its parameters have other names,
        shapes or dtypes."""
        step = self.latest
        assert step is not None
        wanted = _items(abstract)
        restored = self._restored(step, wanted, tally=ocp.args.JsonRestore())
        params, opt = restored["params"], restored["optimizer"]
        state = State(
            step=opt["step"],
            trainable=params["trainable"],
            frozen=self._frozen(abstract),
            opt=opt["opt"],
            loss_scale=opt.get("loss_scale"),
            average=restored["average"] if "average" in wanted else {},
        )
        return state, restored["tally"]

    def restore_params(self, abstract: State, *, average: bool = True) -> Params:
        """Restores only the parameters of the newest checkpoint: averaged where an average is kept and wanted."""
        return merge(self._frozen(abstract), self.restore_trained(abstract, average=average))

    def restore_trained(self, abstract: State, *, average: bool = True) -> Params:
        """Restores what the newest checkpoint's run trains, without what it keeps frozen."""
        name = "average" if average and abstract.average else "params"
        step = self.newest((name,))
        if step is None:
            raise UserError(f"{self._folder}: holds no checkpoint")
        restored = self._restored(step, {name: _items(abstract)[name]})[name]
        return dict(restored if name == "average" else restored["trainable"])

    def _frozen(self, abstract: State) -> Params:
        if not abstract.frozen:
            return {}
        with closing(Frozen(self._folder)) as frozen:
            return frozen.restore(abstract.frozen)

    def _restored(self, step: int, wanted: dict[str, Any], **more: Any) -> Any:
        for name, item in wanted.items():
            check_item(self._manager, self._folder, step, name, item)
        args = {name: ocp.args.StandardRestore(item) for name, item in wanted.items()}
        return self._manager.restore(step, args=ocp.args.Composite(**args, **more))

    def wait(self) -> None:
        """Blocks until what was saved is on disk; raises as `save` does."""
        with writing(self._folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()


def latest_step(folder: Path) -> int | None:
    """The step of a run folder's newest checkpoint: that whose model `load_trained` reads."""
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        return checkpoints.newest(("params", "average"))


def as_trained(config: RunConfig, mesh: MeshConfig) -> RunConfig:
    """The config of a run whose model is read onto a mesh: a kernel asked for may not run here, one device has no
    stages, and a teacher and those whom the objective asked have done their work."""
    execution = dataclasses.replace(config.execution, attention="auto", pipeline_rounds=1)
    parts = mesh.pipe if mesh.pipe > 1 else config.training.microbatches
    training = dataclasses.replace(config.training, microbatches=parts)
    changed: dict[str, Any] = {"training": training, "teacher": None, "objective": config.objective.alone()}
    return dataclasses.replace(config, mesh=mesh, execution=execution, **changed)


def load_trained(
    folder: str | Path, *, average: bool = True, mesh_for: MeshFor = lambda model: MeshConfig()
) -> tuple[RunConfig, Program, Params]:
    """Reads the model of a run folder, whatever mesh and attention kernel trained it.

    A run that averages its parameters gives the `average` or those of its last step. `mesh_for` says, by a model's
    config, onto which mesh it is read: by default this machine's first device. Raises UserError: the folder is no run
    folder, or holds no checkpoint."""
    config = load_config(folder := Path(folder))
    config = as_trained(config, mesh_for(config.model))
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: holds no checkpoint yet")
    program = program_for(config)
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        return config, program, checkpoints.restore_params(program.abstract_state, average=average)


def _free(path: Path) -> Path:
    """The path, or one like it that is not taken."""
    number = 1
    while path.exists():
        path, number = path.with_name(f"{path.name.split('.')[0]}.{number}"), number + 1
    return path


def _items(state: State) -> dict[str, Any]:
    """A state as the items of a checkpoint; what a run has not is absent."""
    optimizer = {"opt": state.opt, "step": state.step}
    if state.loss_scale is not None:
        optimizer["loss_scale"] = state.loss_scale
    items = {"params": {"trainable": state.trainable}, "optimizer": optimizer}
    return {**items, "average": state.average} if state.average else items
