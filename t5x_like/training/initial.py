# SPDX-License-Identifier: Apache-2.0
"""A run that begins with the parameters of another run, or of a Hugging Face folder."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.files import read_json
from t5x_like.interop.hugging_face import config_of_folder, is_hf, load_hf, placed, vocabulary_of
from t5x_like.interop.names import Parts
from t5x_like.models.layers.parameters import ParamSpec
from t5x_like.strict import to_dict
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.program import Program
from t5x_like.training.state import State, split


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A run's fields with what `init_from` says of the model and the tokenizer, where they say nothing.

    Raises:
      UserError: the folder is none that a run can begin with.
    """
    path = (content.get("init_from") or {}).get("path")
    if not isinstance(path, str):
        return dict(content)
    folder, own = Path(path), dict(content.get("model", {}))
    if not (folder / "config.json").is_file():
        raise UserError(f"init_from.path: {path!r} has no config.json; expected a run folder or one of Hugging Face")
    known = to_dict(config_of_folder(folder)) if is_hf(folder) else read_json(folder / "config.json")["model"]
    if own.get("kind", known["kind"]) == known["kind"]:
        own = {**known, **own}
    data = dict(content.get("data", {}))
    if data.get("kind") and "tokenizer" not in data:
        there = folder / "tokenizer.json"
        vocabulary = vocabulary_of(folder) if is_hf(folder) else there if there.is_file() else None
        data |= {} if vocabulary is None else {"tokenizer": {"kind": "file", "path": str(vocabulary)}}
    return {**content, "model": own, "data": data}


def begun(program: Program, state: State, config: RunConfig, note: Callable[[str], None]) -> State:
    """The state before the first step with the folder's parameters in it, one after the other, each where it belongs.

    `state` is used up; it is in the order of the model's layers.

    Raises:
      UserError: a parameter that the folder lacks and `init_from.new` does not name, or one of another shape.
    """
    assert config.init_from is not None
    folder, drawn = Path(config.init_from.path), _Drawn(program, state, config.init_from.path)
    if is_hf(folder):
        load_hf(folder, drawn.put)
    else:
        _, _, params = load_trained(folder, mesh_for=lambda model: config.mesh)
        for name, array in flatten_dict(params, sep="/").items():
            drawn.replace(name, array.shape, partial(jax.device_put, array))
    missing = [name for name in drawn.leaves if name not in drawn.found]
    if lacks := [name for name in missing if not config.init_from.may_lack(name)]:
        raise UserError(
            f"init_from.path: {folder} lacks {lacks[0]!r} and {len(lacks) - 1} more of this model's parameters; "
            "accepted: a folder that has them, or patterns of those to draw in init_from.new"
        )
    note(f"{len(drawn.found)} parameters are those of {folder}")
    for names, what in ((missing, "drawn"), (drawn.left, "left out")):
        if names:
            note(f"{len(names)} are {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
    frozen, trainable = split(unflatten_dict(drawn.leaves, sep="/"), config.tuning)
    average = jax.tree.map(jnp.copy, trainable) if state.average else {}
    return state.replace(trainable=trainable, frozen=frozen, average=average)


class _Drawn:
    """A state's parameters, which others replace.

    Attributes:
      leaves: {name: the parameter, drawn or replaced}.
      found: names of those replaced.
      left: names of those that the state has no place for.
    """

    def __init__(self, program: Program, state: State, source: str):
        self.leaves: dict[str, jax.Array] = flatten_dict(program.params(state, average=False), sep="/")
        self.found: list[str] = []
        self.left: list[str] = []
        self._source = source

    def put(self, name: str, spec: ParamSpec, parts: Parts) -> None:
        self.replace(name, spec.shape, partial(placed, spec, parts))

    def replace(self, name: str, shape: tuple[int, ...], on: Callable[[Any], jax.Array]) -> None:
        """By what `on` makes, given where it is to lie."""
        if name not in self.leaves:
            self.left.append(name)
            return
        old = self.leaves[name]
        if shape != old.shape:
            raise UserError(
                f"init_from.path: {name!r} has shape {list(shape)} in {self._source}; this run's config asks for "
                f"{list(old.shape)}"
            )
        sharding, dtype = old.sharding, old.dtype
        old.delete()  # before the other comes: the two are never in memory at once
        self.leaves[name] = on(sharding).astype(dtype)
        self.found.append(name)
