# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters in the folders of Hugging Face's `peft`: adapter_config.json and adapter_model.safetensors.

Their A is [rank, in] and their B [out, rank], named after the array that they update, so the rules of a family say
whose they are. Their DoRA magnitudes are lengths of columns; ours are over those of the base's kernels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config import LoRAConfig
from t5x_like.errors import UserError
from t5x_like.files import make_folder, read_json, write_text
from t5x_like.interop.hugging_face import placed, rules_of
from t5x_like.interop.names import Rule, to_ours, to_theirs
from t5x_like.interop.safetensors import read_file, write_folder
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs
from t5x_like.models.model import Model
from t5x_like.tuning.low_rank import BESIDE, LowRankModel, with_updates

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
PLAIN: dict[str, Any] = {  # what else an adapter_config.json may ask for has no counterpart here
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "layer_replication": None,
    "lora_bias": False,
    "trainable_token_indices": None,
    "target_parameters": None,
}


def load_adapter(path: str | Path, model: Model, params: Params) -> tuple[LowRankModel, Params]:
    """Reads an adapter for a model; the parameters come back with its updates beside their kernels.

    Raises:
      UserError: not such a folder, another kind of adapter or an option of it without a counterpart here, or arrays
        that are missing, unexpected, or of another shape than the model's.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: has no {CONFIG}; expected a folder that peft's save_pretrained has written")
    arrays = read_file(folder / ARRAYS)
    rules = [rule for rule in rules_of(model.config) if _updated(rule, "a") in arrays]
    if not rules:
        raise UserError(f"{folder}: has no update of any kernel of model.kind={model.config.kind!r}")
    tuning = _tuning(read_json(folder / CONFIG), rules, named_specs(model.specs()), folder)
    specs = _updates(model.specs(), tuning)
    own = to_ours(_rules(rules, tuning), specs, arrays, "", lambda _, *what: placed(*what), str(folder))
    return LowRankModel(model, tuning), _with_lengths(_beside(params, own), model.specs(), divide=True)


def save_adapter(path: str | Path, model: LowRankModel, params: Params, base: str) -> None:
    """Writes the updates alone; `base` is what adapter_config.json calls the model that they belong to.

    Raises:
      UserError: the family has no counterpart there, or its arrays hold several kernels whose updates have other As.
    """
    tuning, specs = model.tuning, named_specs(model.base.specs())
    rules = [rule for rule in rules_of(model.base.config) if all(tuning.targeted(name) for name in _ours(rule, specs))]
    rules = [rule for rule in rules if _ours(rule, specs)]
    own = flatten_dict(_with_lengths(params, model.base.specs(), divide=False), sep="/")
    written = {f"{name.removesuffix('kernel')}{BESIDE}/a" for rule in rules for name in _ours(rule, specs)}
    if alone := [name for name in own if name.endswith(f"/{BESIDE}/a") and name not in written]:
        raise UserError(f"{path}: {alone[0]!r} has no array of its own there, and its neighbours have no update")
    for rule in rules:
        firsts = [np.asarray(own[f"{name.removesuffix('kernel')}{BESIDE}/a"]) for name in _ours(rule, specs)]
        if any(not np.array_equal(first, firsts[0]) for first in firsts):
            raise UserError(
                f"{path}: {rule.theirs!r} has one A for several kernels here, whose updates differ in theirs"
            )
    updates = _updates(model.base.specs(), tuning)
    arrays = to_theirs(_rules(rules, tuning), updates, lambda name: np.asarray(own[name], np.float32), np.float32)
    folder = make_folder(path, "--out")
    write_folder(folder, arrays)
    (folder / "model.safetensors").rename(folder / ARRAYS)
    content = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": tuning.rank,
        "lora_alpha": tuning.alpha,
        "lora_dropout": tuning.dropout_rate,
        "use_rslora": tuning.rank_stabilised,
        "use_dora": tuning.dora,
        "target_modules": sorted({rule.theirs.removesuffix(".weight").rpartition(".")[2] for rule in rules}),
        "fan_in_fan_out": any(not rule.out_first for rule in rules),
        "inference_mode": True,
        **PLAIN,
    }
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def _updated(rule: Rule, part: str, layer: int = 0) -> str:
    """The name there of a part of the update of a rule's array, in one layer."""
    return PREFIX + rule.theirs.removesuffix("weight").format(i=layer, e=0) + PARTS[part]


def _ours(rule: Rule, specs: dict[str, ParamSpec]) -> list[str]:
    """The kernels here of a rule, in every block of a pattern."""
    names = (each.format(i=block, e=0) for each in rule.all_ours for block in range(8))
    return [name for name in dict.fromkeys(names) if name in specs and name.endswith("/kernel") and "/layers/" in name]


def _tuning(theirs: dict[str, Any], rules: list[Rule], specs: dict[str, ParamSpec], folder: Path) -> LoRAConfig:
    """Our config for an adapter_config.json."""
    if theirs.get("peft_type") != "LORA":
        raise UserError(f"{folder}: peft_type {theirs.get('peft_type')!r} has no counterpart here; accepted: 'LORA'")
    for name, value in PLAIN.items():
        if theirs.get(name) not in (None, value):
            raise UserError(f"{folder}/{CONFIG}: {name}={theirs[name]!r} has no counterpart here; accepted: {value!r}")
    return LoRAConfig(
        rank=theirs["r"],
        alpha=float(theirs["lora_alpha"]),
        rank_stabilised=bool(theirs.get("use_rslora")),
        dora=bool(theirs.get("use_dora")),
        dropout_rate=float(theirs.get("lora_dropout") or 0.0),
        targets=tuple(name for rule in rules for name in _ours(rule, specs)),
    )


def _rules(rules: list[Rule], tuning: LoRAConfig) -> list[Rule]:
    """The rules of updates: an A belongs to every kernel of an array, a B and a magnitude hold them side by side."""
    found = []
    for rule in rules:
        theirs = PREFIX + rule.theirs.removesuffix("weight")
        ours = [f"{name.removesuffix('kernel')}{BESIDE}" for name in rule.all_ours]
        found += [Rule(theirs + PARTS["a"], f"{each}/a") for each in ours]
        for part in ("b", "magnitude") if tuning.dora else ("b",):
            names = tuple(f"{each}/{part}" for each in ours)
            found.append(Rule(theirs + PARTS[part], names if len(names) > 1 else names[0], by_head=rule.by_head))
    return found


def _updates(specs: Params, tuning: LoRAConfig) -> Params:
    """The specs of the updates alone."""
    named = named_specs(with_updates(specs, tuning))
    return unflatten_dict({name: spec for name, spec in named.items() if f"/{BESIDE}/" in name}, sep="/")


def _beside(params: Params, updates: Params) -> Params:
    """Both in one tree."""
    return unflatten_dict(flatten_dict(params, sep="/") | flatten_dict(updates, sep="/"), sep="/")


def _with_lengths(params: Params, specs: Params, *, divide: bool) -> Params:
    """The parameters with magnitudes divided by, or multiplied with, the lengths of their kernels' columns."""
    named, leaves = named_specs(specs), flatten_dict(params, sep="/")
    for name in [name for name in leaves if name.endswith(f"{BESIDE}/magnitude")]:
        kernel = f"{name.removesuffix(f'{BESIDE}/magnitude')}kernel"
        into = tuple(named[kernel].axes.index(axis) for axis in named[kernel].in_axes)
        lengths = np.sqrt(np.square(np.asarray(leaves[kernel], np.float32)).sum(into))
        leaves[name] = leaves[name] / lengths if divide else leaves[name] * lengths
    return unflatten_dict(leaves, sep="/")
