# SPDX-License-Identifier: Apache-2.0
"""A run that begins with the parameters of another run, or of a Hugging Face folder."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.accounting.flops import accounting
from t5x_like.config import MeshConfig, RunConfig
from t5x_like.config.data import TextTaskConfig, kinds
from t5x_like.config.data.tokenizers import FileTokenizerConfig
from t5x_like.config.models.llava import SeesImagesConfig
from t5x_like.config.models.vision import VisionConfig
from t5x_like.data.tokenizers import load_tokenizer
from t5x_like.errors import UserError, unknown_name
from t5x_like.files import make_folder, read_json, write_json
from t5x_like.interop.adapters import load_adapter
from t5x_like.interop.hugging_face import config_of_folder, is_hf, load_hf, placed, vocabulary_of
from t5x_like.interop.names import Parts
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs
from t5x_like.models.vision import POSITIONS, resized_positions
from t5x_like.quantisation import PARTS, filled, stored_specs, whole_specs
from t5x_like.strict import convert, to_dict
from t5x_like.training.checkpoints import Checkpoints, MeshFor, as_trained, load_trained
from t5x_like.training.metrics import Tally
from t5x_like.training.parameter_rules import depths_of, layer_numbers
from t5x_like.training.program import Program, program_for
from t5x_like.training.run_folder import load_config, model_of, open_folder
from t5x_like.training.state import State, split
from t5x_like.tuning import tuned_model, tuned_specs, untuned

_TASKS = {("decoder",): "language_model", ("encoder",): "masked_lm", ("encoder", "decoder"): "seq2seq"}
_TEXTS = {name for name, kind in kinds().items() if issubclass(kind, TextTaskConfig)} | {"mixture"}


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A run's fields with what `init_from` says of the model and the tokenizer, where they say nothing, or what a
    `teacher` says of the tokenizer. Raises UserError: a folder is none that a run can begin with, or learn from."""
    given = {part: (content.get(part) or {}).get("path") for part in ("init_from", "teacher")}
    folders = {part: Path(path) for part, path in given.items() if isinstance(path, str)}
    for part, folder in folders.items():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{part}.path: {given[part]!r} has no config.json; expected a run folder or one of Hugging Face"
            )
    own, data = dict(content.get("model", {})), dict(content.get("data", {}))
    if "init_from" in folders:
        known = to_dict(model_of(folders["init_from"]))
        if (layers := content["init_from"].get("layers")) is not None:
            known["num_layers"] = len(layers)
        if own.get("kind", known["kind"]) == known["kind"]:
            own = {**known, **own}
    if folders and data.get("kind") in _TEXTS and "tokenizer" not in data:
        data["tokenizer"] = {"kind": "file", "path": str(vocabulary_of(next(iter(folders.values()))))}
    return {**content, **({"model": own} if own else {}), "data": data}


def hf_run(folder: Path) -> RunConfig:
    """A run whose model is a Hugging Face folder's, with its tokenizer; its data are only a form for sets to score."""
    model = config_of_folder(folder)
    vision = getattr(model, "vision", model)
    if isinstance(vision, VisionConfig):
        images = {"image_size": vision.image_size, "channels": vision.channels} | _normalised(folder)
        if isinstance(model, SeesImagesConfig):
            length = {"sequence_length": min(model.max_length or 2048, 2048)}
            return _form(folder, {"kind": "visual_question", **length, **images}, "causal_lm")
        labels = {"kind": "image_classification", "num_labels": getattr(model, "num_labels", None)}
        return _form(folder, labels | images, "classification")
    kind = getattr(model, "head", None) or _TASKS[model.streams]
    kind = "preferences" if kind == "scalar" else kind
    data: dict[str, Any] = {"kind": kind, "sequence_length": min(getattr(model, "max_length", None) or 512, 512)}
    if "encoder" in model.streams and "decoder" in model.streams:
        data["encoder_length"] = data["sequence_length"]
    if getattr(model, "head", None) in ("classification", "tagging"):
        data["num_labels"] = getattr(model, "num_labels", None)
    if kind == "classification":
        data["stream"] = model.streams[0]
    objective = {"language_model": "causal_lm", "preferences": "reward"}.get(kind, kind)
    return _form(folder, data, objective)


def _normalised(folder: Path) -> dict[str, Any]:
    """How a folder's model wants pixels, where it says."""
    path = folder / "preprocessor_config.json"
    told = read_json(path) if path.is_file() else {}
    names = {"mean": "image_mean", "stddev": "image_std"}
    return {ours: tuple(told[name]) for ours, name in names.items() if name in told}


def _form(folder: Path, data: dict[str, Any], objective: str) -> RunConfig:
    content = {"init_from": {"path": str(folder)}, "data": data, "objective": {"kind": objective}}
    return convert(RunConfig, completed({**content, "training": {"steps": 1}})).resolve()


def load_any(
    folder: Path, *, average: bool = True, mesh_for: MeshFor = lambda model: MeshConfig()
) -> tuple[RunConfig, Program, Params]:
    """As `load_trained`, of a run folder or of Hugging Face's."""
    if not is_hf(folder):
        return load_trained(folder, average=average, mesh_for=mesh_for)
    config = hf_run(folder)
    program = program_for(dataclasses.replace(config, mesh=mesh_for(config.model)))
    where = flatten_dict(program.layout.parameters(program.specs), sep="/")
    return config, program, load_hf(folder, lambda name, spec, parts: placed(spec, parts, where[name]))[1]


def with_adapter(folder: Path, model: Any, params: Params) -> tuple[Any, Params]:
    """A model with what a run has trained beside it, or with an adapter of `peft`; the base's arrays are shared. Raises
    UserError: the folder is neither, trained the base itself, or belongs to another model."""
    if not (folder / "checkpoints").is_dir():
        if not (folder / "adapter_config.json").is_file():
            raise UserError(f"--adapter={folder}: is no run folder with a checkpoint, nor one that peft has written")
        return load_adapter(folder, model, params)
    config = load_config(folder)
    theirs, ours = (named_specs(each.specs()) for each in (build_model(config.model), model))
    if {name: spec.shape for name, spec in theirs.items()} != {name: spec.shape for name, spec in ours.items()}:
        raise UserError(f"--adapter={folder}: belongs to a model of other names or shapes than --checkpoint's")
    if config.tuning.kind == "full":
        raise UserError(f"--adapter={folder}: trained every parameter, and is a --checkpoint by itself")
    program = program_for(as_trained(config, MeshConfig()))
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        trained = checkpoints.restore_trained(program.abstract_state)
    own = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), trained)  # on no device: they follow the base's
    leaves = flatten_dict(params, sep="/") | flatten_dict(own, sep="/")
    return tuned_model(model, config.tuning), unflatten_dict(leaves, sep="/")


def write_run(source: Path, folder: Path) -> None:
    """Writes a Hugging Face folder as a run folder."""
    config = hf_run(source)
    program = program_for(config)
    state = begun(program, program.drawn(jax.random.key(config.seed)), config, lambda note: None)
    if not hasattr(config.data, "tokenizer"):
        write_state(folder, config, state, None, "OUT")
        return
    vocabulary = FileTokenizerConfig(path=str(folder / "tokenizer.json"))
    data = dataclasses.replace(config.data, tokenizer=vocabulary)  # type: ignore[call-arg]
    write_state(folder, dataclasses.replace(config, data=data), state, vocabulary_of(source), "OUT")


def write_state(folder: Path, config: RunConfig, state: State, vocabulary: Path | None, flag: str) -> None:
    """Writes a run folder, which the `flag` named: config, tokenizer, accounting, and a checkpoint of step 0."""
    make_folder(folder, flag)
    open_folder(folder, config)
    if vocabulary is not None:
        load_tokenizer(vocabulary).save(folder / "tokenizer.json")
    write_json(folder / "accounting.json", accounting(config))
    with closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        checkpoints.save(state, 0, dataclasses.asdict(Tally()))


def check_initial(config: RunConfig, specs: Params) -> dict[str, list[str]]:
    """Whether a run's folder has what its parameters need; nothing is read of it but names and shapes.

    Returns names of parameters: those that are "found" there, "drawn", which it lacks, and "left out", without a place.
    Raises UserError: a parameter that the folder lacks and `init_from.new` does not name, or one of another shape."""
    assert config.init_from is not None
    path, parts = config.init_from.path, config.init_from.parts
    theirs, ours = named_specs(_specs_of(path)), named_specs(specs)
    for name, repeats in repeats_taken(config, specs).items():
        theirs[name] = _with_repeats(theirs[name], len(repeats))
    for before, folder in config.init_from.folders.items():
        if before:
            part = {f"{before}{name}": spec for name, spec in named_specs(_specs_of(folder)).items()}
            if not part.keys() & ours.keys():
                known = sorted({name.split("/")[0] for name in ours} - {before[:-1]})
                raise unknown_name(f"init_from.parts of {folder}", before[:-1], known)
            theirs |= part

    def source(name: str) -> tuple[str, str]:
        """The field, and the folder that it names, of a parameter."""
        part = name.split("/")[0]
        return (f"init_from.parts.{part}", parts[part]) if part in parts else ("init_from.path", path)

    for name in theirs.keys() & ours.keys():
        if theirs[name].shape != ours[name].shape and (
            name != POSITIONS or theirs[name].shape[1] != ours[name].shape[1]
        ):
            field, folder = source(name)
            wanted = f"this run's config asks for {list(ours[name].shape)}"
            raise UserError(f"{field}: {name!r} has shape {list(theirs[name].shape)} in {folder}; {wanted}")
    drawn = [name for name in ours if name not in theirs]
    base = build_model(config.model).specs()
    added = named_specs(tuned_specs(base, config.tuning)).keys() - named_specs(base).keys()
    if lacks := [name for name in drawn if name not in added and not config.init_from.may_lack(name)]:
        raise UserError(
            f"{': '.join(source(lacks[0]))} lacks {lacks[0]!r} and {len(lacks) - 1} more of this model's parameters; "
            "accepted: a folder that has them, or patterns of those to draw in init_from.new"
        )
    few_bits = config.quantisation
    if few_bits is not None and not few_bits.aware:
        kept = named_specs(stored_specs(specs, few_bits))
        if lacks := [name for name in drawn if name not in kept]:
            raise UserError(
                f"{': '.join(source(lacks[0]))} lacks {lacks[0]!r}, which is to be kept in {few_bits.kind}; accepted: "
                "quantisation.targets without it"
            )
    found, left = ([name for name in theirs if (name in ours) == there] for there in (True, False))
    return {"found": found, "drawn": drawn, "left out": left}


def repeats_taken(config: RunConfig, specs: Params) -> dict[str, list[int]]:
    """Which repeats of the folder's each parameter takes, by name; of stacks that are as deep there, none is named.
    Raises UserError: `init_from.layers` are not as many as a stack has, or not of those that the folder's has."""
    assert config.init_from is not None
    layers, path = config.init_from.layers, config.init_from.path
    if layers is None:
        return {}
    there, here = layer_numbers(_specs_of(path)), layer_numbers(specs)
    depths, own_depths = depths_of(there), depths_of(here)
    taken: dict[str, list[int]] = {}
    for name in [name for name in here if name in there]:
        stack, own = here[name]
        if depths[stack] == own_depths[stack]:
            continue
        if len(layers) != own_depths[stack]:
            raise UserError(f"init_from.layers: {len(layers)} for the {own_depths[stack]} layers of {stack!r} here")
        places = {int(layer): repeat for repeat, layer in enumerate(there[name][1])}
        for layer in layers:
            if not 0 <= layer < depths[stack]:
                raise UserError(f"init_from.layers: {layer} is none of {path}; accepted: 0 to {depths[stack] - 1}")
        for number in own:
            if layers[number] not in places:
                raise UserError(f"init_from.layers: {layers[number]} of {path} is another kind of layer than {number}")
        taken[name] = [places[layers[number]] for number in own]
    if not taken:
        raise UserError(f"init_from.layers: {list(layers)}, but all stacks are as deep as in {path}; accepted: None")
    return taken


def _specs_of(folder: str) -> Params:
    return build_model(model_of(Path(folder))).specs()


def _with_repeats(spec: ParamSpec, number: int) -> ParamSpec:
    sizes = zip(spec.axes, spec.shape, strict=True)
    return dataclasses.replace(spec, shape=tuple(number if axis == "layers" else size for axis, size in sizes))


def _parts_taken(parts: Parts, repeats: list[int]) -> Parts:
    for (repeat, *rest), part in parts:
        for place in (place for place, taken in enumerate(repeats) if taken == repeat):
            yield (place, *rest), part


def begun(program: Program, state: State, config: RunConfig, note: Callable[[str], None]) -> State:
    """The state before the first step with the folders' parameters in it, one after the other, each where it belongs.
    `state` is used up; it is in the order of the model's layers. Raises as `check_initial` does."""
    whole = named_specs(whole_specs(program.model))
    names = check_initial(config, whole_specs(program.model))
    assert config.init_from is not None
    leaves: dict[str, jax.Array] = flatten_dict(program.params(state, average=False), sep="/")

    def replace(name: str, parts: Parts, on: Callable[[Any], jax.Array]) -> None:
        """By what `on` makes, given where it is to lie; the old one goes first, so that there are never both. Kernels
        in few bits are encoded part by part."""
        if name in leaves:
            old = leaves[name]
            old.delete()
            leaves[name] = on(old.sharding).astype(old.dtype)
        elif f"{name}/codes" in leaves:
            assert config.quantisation is not None
            kept = {part: leaves[f"{name}/{part}"] for part in PARTS if f"{name}/{part}" in leaves}
            kept = filled(kept, parts, whole[name], config.quantisation)
            leaves.update({f"{name}/{part}": array for part, array in kept.items()})

    taken = repeats_taken(config, whole_specs(program.model))

    def resized(table: Any) -> jax.Array:
        """Positions of images of another size; the same where the size is."""
        vision: Any = getattr(config.model, "vision", config.model)
        same = len(table) == vision.patches + vision.more_tokens
        return jnp.asarray(table if same else resized_positions(jnp.asarray(table), vision.patches, vision.more_tokens))

    def put(before: str, name: str, spec: ParamSpec, parts: Parts) -> None:
        name = before + name
        if name == POSITIONS:
            parts = ((at, np.asarray(resized(part))) for at, part in parts)
            spec = whole.get(name, spec)
        if name in taken and not before:
            spec, parts = _with_repeats(spec, len(taken[name])), _parts_taken(parts, taken[name])
        replace(name, parts, partial(placed, spec, parts))

    for before, folder in config.init_from.folders.items():
        if is_hf(Path(folder)):
            load_hf(Path(folder), partial(put, before))
            continue
        _, theirs, params = load_trained(folder, mesh_for=lambda model: config.mesh)
        _, params = untuned(theirs.model, params, masters=True)
        for name, whole_array in flatten_dict(params, sep="/").items():
            name = before + name
            array: Any = (
                whole_array[jnp.asarray(taken[name])] if name in taken and not before else whole_array
            )  # layers come first
            array = resized(array) if name == POSITIONS else array
            replace(name, iter([((), array)]), partial(jax.device_put, array))
    begun_with = ", ".join(config.init_from.folders.values())
    for what, which in names.items():
        if which:
            more = ", ..." if len(which) > 3 else ""
            note(f"{begun_with}: {len(which)} parameters {what}: {', '.join(which[:3])}{more}")
    frozen, trainable = split(unflatten_dict(leaves, sep="/"), config.tuning)
    average = jax.tree.map(jnp.copy, trainable) if state.average else {}
    return state.replace(trainable=trainable, frozen=frozen, average=average)
