# SPDX-License-Identifier: Apache-2.0
"""Checkpoints through Orbax: saved in the background, restored strictly, onto any mesh.

What is read is the newest checkpoint whose files are as they were written (`seals.py`); one that is damaged is told of
and passed over, never deleted.

A checkpoint has these items: `params` (trainable and frozen), `average` (the trainable ones averaged, where the run
keeps an average), `optimizer` (its state, the step and the loss scale) and `tally` (JSON: what the loop has counted).
So a program that only wants the model reads only its parameters.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from t5x_like.config import MeshConfig, ModelConfig, RunConfig
from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Params
from t5x_like.training.one_writer import as_the_first, is_writer
from t5x_like.training.parameter_rules import path_name
from t5x_like.training.program import Program, program_for
from t5x_like.training.run_folder import load_config
from t5x_like.training.seals import damage, seal
from t5x_like.training.state import State, merge


def tell(text: str) -> None:
    """Says it on standard error."""
    print(text, file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one run folder.

    Of several processes all make the same calls.
    """

    def __init__(self, folder: Path, keep: int = 2, note: Callable[[str], None] = tell):
        """`note` is told which checkpoint is passed over."""
        self._on_disk = isinstance(folder, Path)
        sealing = ocp.options.AsyncOptions(post_finalization_callback=partial(seal, folder) if self._on_disk else None)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True, async_options=sealing
        )
        handlers = {name: ocp.StandardCheckpointHandler() for name in ("params", "average", "optimizer")}
        handlers["tally"] = ocp.JsonCheckpointHandler()
        place = folder.absolute() if isinstance(folder, Path) else folder  # one in a bucket is absolute
        self._manager = ocp.CheckpointManager(place, options=options, item_handlers=handlers)
        self._folder, self._note = folder, note
        self._damage: dict[tuple[int, tuple[str, ...]], str | None] = {}  # of those looked at, and of those saved here

    @property
    def latest(self) -> int | None:
        """The step of the newest one that is not damaged.

        Raises:
          UserError: all of them are.
        """
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

        Raises:
          UserError: this one, or the one before, which was being written, finds no room or no permission.
        """
        if step == self.latest:
            return
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items, tally=ocp.args.JsonSave(tally)))
        self._damage[step, ()] = None

    def restore(self, abstract: State) -> tuple[State, dict[str, Any]]:
        """Restores the newest checkpoint onto the shardings of `abstract`.

        Raises:
          UserError: the checkpoint's parameters are not the model's (names, shapes or dtypes).
        """
        step = self.latest
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
        averaged = average and bool(abstract.average)
        names = ["average"] if averaged and not abstract.frozen else ["params", "average"] if averaged else ["params"]
        step = self.newest(tuple(names))
        if step is None:
            raise UserError(f"{self._folder}: holds no checkpoint")
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
        """Blocks until what was saved is on disk; raises as `save` does."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Makes a user's error of what the disk refuses."""
        try:
            yield
        except (OSError, ValueError) as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's errors are ValueErrors
            if code is None and not isinstance(error, OSError):
                raise
            why = os.strerror(int(code[1])) if code else error.strerror  # type: ignore[union-attr]
            raise UserError(
                f"{self._folder}: a checkpoint cannot be written: {why}; those before it are whole, and the same "
                "command goes on from them"
            ) from error

    def close(self) -> None:
        """Waits, and frees the manager's threads."""
        self.wait()
        self._manager.close()


def latest_step(folder: Path) -> int | None:
    """The step of a run folder's newest checkpoint: that whose model `load_trained` reads."""
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        return checkpoints.newest(("params", "average"))


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
    # A kernel asked for may not run here, one device has no stages, and a teacher has done its work.
    execution = dataclasses.replace(config.execution, attention="auto", pipeline_rounds=1)
    config = dataclasses.replace(config, mesh=mesh_for(config.model), execution=execution, teacher=None)
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
    items = {"params": {"trainable": state.trainable, "frozen": state.frozen}, "optimizer": optimizer}
    return {**items, "average": state.average} if state.average else items


def _leaves(tree: Any) -> dict[str, str]:
    """{path: "float32[3, 4]"} of a tree of arrays or of Orbax's metadata."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf, "dtype")]
    return {path_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
