# SPDX-License-Identifier: Apache-2.0
"""Whole folders of Hugging Face: config.json and safetensors, read and written."""

import dataclasses
import importlib
import json
import math
import pkgutil
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from t5x_like import interop
from t5x_like.config.models.base import DecoderConfig, ModelConfig
from t5x_like.errors import UserError, unknown_name
from t5x_like.files import make_folder, read_json
from t5x_like.interop.names import Parts, Rule, label_names, to_ours, to_theirs
from t5x_like.interop.safetensors import Arrays, read_folder, write_folder
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import Params, ParamSpec
from t5x_like.models.model import Model

_SCORE = "score.weight"  # a decoder's head
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model")


def families() -> dict[str, ModuleType]:
    """The families that can be read and written, by the model_type of config.json."""
    files = [file.name for file in pkgutil.iter_modules(interop.__path__)]
    modules = [importlib.import_module(f"{interop.__name__}.{name}") for name in files if name != "hugging_face"]
    return {kind: module for module in modules for kind in getattr(module, "TYPES", ())}


def is_hf(folder: Path) -> bool:
    """Whether a folder is one of Hugging Face's: its config.json says `model_type`."""
    return (folder / "config.json").is_file() and "model_type" in read_json(folder / "config.json")


def vocabulary_of(folder: Path) -> Path:
    """Where a folder's tokenizer is. Raises UserError: it has none that can be read."""
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has no tokenizer; expected {' or '.join(_VOCABULARIES)}")


def load_hf(path: str | Path, put: Any = None) -> tuple[Model, Params]:
    """Reads a model of a Hugging Face folder: `model.apply(params, batch)["logits"]` are its logits.

    Args:
      put: see `to_ours`; by default `placed` on the first device.

    Raises:
      UserError: not such a folder, a family or an option that has no counterpart here, or arrays that are missing,
        unexpected, damaged or pickled.
    """
    folder = Path(path)
    config, family, arrays = _opened(folder)
    model, rules = build_model(config), rules_of(config)
    prefix = family.PREFIXES[_family_of(config)[0]]
    ignored = f"({re.escape(prefix)})?({family.IGNORED})"
    if config.tie_embeddings:
        _check_copies(rules, arrays, ignored, folder)
    return model, to_ours(rules, model.specs(), arrays, ignored, put or (lambda _, *what: placed(*what)), str(folder))


def config_of_folder(folder: Path) -> ModelConfig:
    """Our config of a folder's model. Raises UserError: as `load_hf`, but for what the arrays hold."""
    return _opened(folder)[0]


def _opened(folder: Path) -> tuple[ModelConfig, ModuleType, Arrays]:
    """A folder's config, its family, and its arrays by the names that whole models have."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: has no config.json; expected a folder that save_pretrained has written")
    theirs = read_json(folder / "config.json")
    if (kind := theirs.get("model_type")) not in (known := families()):
        raise unknown_name(f"{folder}: model_type", str(kind), known)
    family = known[kind]
    prefix = family.PREFIXES[kind]
    arrays = read_folder(folder)
    for old, new in getattr(family, "RENAMED", {}).items():
        arrays = Arrays({re.sub(f"^{re.escape(old)}", new, name): place for name, place in arrays.places.items()})
    if not any(name.startswith(prefix) for name in arrays):  # of a model without its head
        arrays = Arrays({prefix + name: place for name, place in arrays.places.items()})
    arrays = getattr(family, "Joined", Arrays)(arrays.places)
    return config_of(theirs, arrays, family, folder), family, arrays


def _check_copies(rules: list[Rule], arrays: Arrays, ignored: str, source: Path) -> None:
    """Refuses what looks like a second copy of the table of tokens, and is none."""
    name = next((rule.theirs for rule in rules if rule.ours == "token_embedding/embedding"), None)
    if name is None or name not in arrays:
        return  # there is none, or it is told where it is read
    shape = arrays.places[name].shape
    copies = [other for other, place in arrays.places.items() if place.shape == shape and re.fullmatch(ignored, other)]
    for other in copies:
        if not np.array_equal(arrays[other], arrays[name]):
            raise UserError(f"{source}: {other!r} differs from {name!r}, which config.json says it is tied to")


def placed(spec: ParamSpec, parts: Parts, sharding: NamedSharding | None = None) -> jax.Array:
    """A parameter out of its parts, which are put into it one after the other, so that no second one is in memory.

    Without a sharding it lies on the first device, and follows what it is used with.
    """
    if jax.default_backend() == "cpu" and (sharding is None or sharding.num_devices == 1):
        return jax.device_put(_gathered(spec, parts), sharding)
    whole = None
    for at, part in parts:
        if not at:
            return _on(sharding, part)
        if whole is None:
            whole = jax.jit(partial(jnp.zeros, spec.shape), out_shardings=sharding)()
        inner = sharding and NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[len(at) :]))
        whole = _filled(whole, _on(inner, part), at).block_until_ready()  # or parts would wait in memory
    assert whole is not None
    return whole


def _gathered(spec: ParamSpec, parts: Parts) -> np.ndarray:
    """The same in NumPy, from a multiple of 64 bytes on: where a CPU takes an array as it is."""
    size = 4 * math.prod(spec.shape)
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    whole = memory[start : start + size].view(np.float32).reshape(spec.shape)
    for at, part in parts:
        whole[at] = part
    return whole


def _on(sharding: NamedSharding | None, array: np.ndarray) -> jax.Array:
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@partial(jax.jit, donate_argnums=0)
def _filled(whole: jax.Array, part: jax.Array, at: tuple[jax.Array, ...]) -> jax.Array:
    return whole.at[at].set(part)


def config_of(theirs: dict[str, Any], names: Mapping[str, Any], family: ModuleType, source: Any) -> ModelConfig:
    """Our config for a config.json and the names of the arrays beside it. Raises UserError: it asks for what has no
    counterpart here."""
    for name, value in family.SAME.items():
        if theirs.get(name) not in (None, value):
            given = f"{source}/config.json: {name}={theirs[name]!r}"
            raise UserError(f"{given} has no counterpart here; accepted: {value!r}")
    try:
        kind = family.TYPES[theirs["model_type"]]
        config = kind(**family.fields(theirs, names) | _head_fields(theirs, names, kind))
    except KeyError as error:
        raise UserError(f"{source}/config.json: lacks {error}") from None
    return config.filled()


def _family_of(config: ModelConfig) -> tuple[str, ModuleType]:
    known = {family.TYPES[name]: (name, family) for name, family in families().items()}
    if type(config) not in known:
        names = ", ".join(sorted(kind.kind for kind in known))
        raise UserError(f"model.kind={config.kind!r} has no counterpart there; accepted: {names}")
    return known[type(config)]


def rules_of(config: ModelConfig) -> list[Rule]:
    """The rules of a config's family, with the names that whole models have there."""
    head = [] if _head_of(config) is None else [Rule(_SCORE, "labels/kernel")]
    return [*_family_of(config)[1].rules(config), *head]


def _head_of(config: ModelConfig) -> str | None:
    """Of a decoder; encoders' heads are their family's."""
    return config.head if isinstance(config, DecoderConfig) else None


def _head_fields(theirs: dict[str, Any], names: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Our fields of a decoder's head, which all its families call alike."""
    if _SCORE not in names or not issubclass(kind, DecoderConfig):
        return {}
    number = len(theirs.get("id2label") or range(2))  # one is that of a reward model
    return {"head": "classification" if number > 1 else "scalar", "num_labels": number, "lm_head": False}


def save_hf(model: Model, params: Params, path: str | Path, dtype: Any = np.float32) -> None:
    """Writes a folder that `transformers` reads: config.json and safetensors; of a policy without the numbers that were
    to expect its rewards. Raises UserError: the model's family or one of its options has no counterpart there."""
    config = model.config
    if isinstance(config, DecoderConfig) and config.head == "scalar" and config.lm_head:
        config = dataclasses.replace(config, head=None, critic=False, num_labels=None)
        model = build_model(config)
    if _head_of(config) is not None:  # beside a head there are no logits over the vocabulary there
        config = dataclasses.replace(config, lm_head=False)
        model = build_model(config)
    model_type, family = _family_of(config)
    architecture = family.ARCHITECTURES[model_type]
    theirs = {"architectures": [architecture], "model_type": model_type, **family.their_fields(config)}
    if _head_of(config) is not None:
        theirs["architectures"] = [re.sub("For.*|LMHeadModel", "ForSequenceClassification", architecture)]
        theirs |= label_names(config.num_labels)
    leaves = flatten_dict(params, sep="/")
    arrays = to_theirs(rules_of(config), model.specs(), lambda name: np.asarray(leaves[name], np.float32), dtype)
    arrays = getattr(family, "apart", lambda arrays, config: arrays)(arrays, config)
    again = config_of(theirs, arrays, family, path)
    if again != config:
        differs = next(n for n in vars(config) if getattr(again, n) != getattr(config, n))
        raise UserError(f"model.{differs}={getattr(config, differs)!r} has no counterpart in model_type={model_type!r}")
    folder = make_folder(path, "--out")
    write_folder(folder, arrays)
    (folder / "config.json").write_text(json.dumps(theirs, indent=2) + "\n")
