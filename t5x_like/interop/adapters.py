# SPDX-License-Identifier: Apache-2.0
"""Adapters in the folders of Hugging Face's `peft`: adapter_config.json and adapter_model.safetensors.

Low-rank updates: their A is [rank, in] and their B [out, rank], named after the array that they update, so the rules of
a family say whose they are. Their DoRA magnitudes are lengths of columns; ours are over those of the base's kernels.
IA3: a vector for each array, [out, 1], or [1, in] of what adapter_config.json calls a feed-forward module. A prompt is
one array of embeddings.
"""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config import IA3Config, LoRAConfig, PromptConfig
from t5x_like.config.checks import matches
from t5x_like.errors import UserError
from t5x_like.files import make_folder, read_json, write_text
from t5x_like.interop.hugging_face import placed, rules_of
from t5x_like.interop.names import Rule, to_ours, to_theirs
from t5x_like.interop.safetensors import read_file, write_folder
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs
from t5x_like.models.model import Model
from t5x_like.tuning.ia3 import IA3Method
from t5x_like.tuning.low_rank import LowRankMethod
from t5x_like.tuning.method import Method, TunedModel, tune, with_added
from t5x_like.tuning.prompt import PromptMethod

CONFIG, ARRAYS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
KINDS = ("LORA", "IA3", "PROMPT_TUNING")
VECTOR = "ia3_l"
PROMPT, TABLE = "prompt_embeddings", "token_embedding/embedding"
PARTS = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
# What else an adapter_config.json may ask for has no counterpart here.
PLAIN: dict[str, Any] = {"bias": "none", "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False}
PLAIN |= dict.fromkeys(("modules_to_save", "layers_to_transform", "layer_replication"))
PLAIN |= dict.fromkeys(("trainable_token_indices", "target_parameters"))


def load_adapter(path: str | Path, model: Model, params: Params) -> tuple[TunedModel, Params]:
    """Reads an adapter for a model; the parameters come back with what it adds beside their kernels. Raises UserError:
    not such a folder, another kind of adapter or an option of it without a counterpart here, or arrays that are
    missing, unexpected, or of another shape than the model's."""
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: has no {CONFIG}; expected a folder that peft's save_pretrained has written")
    arrays, theirs = read_file(folder / ARRAYS), read_json(folder / CONFIG)
    if theirs.get("peft_type") not in KINDS:
        kinds = ", ".join(map(repr, KINDS))
        raise UserError(f"{folder}: peft_type {theirs.get('peft_type')!r} has no counterpart here; accepted: {kinds}")
    for name, value in PLAIN.items():
        if theirs.get(name) not in (None, value):
            raise UserError(f"{folder}/{CONFIG}: {name}={theirs[name]!r} has no counterpart here; accepted: {value!r}")
    if theirs["peft_type"] == "PROMPT_TUNING":
        return _with_prompt(folder, model, params, arrays)
    first = PARTS["a"] if theirs["peft_type"] == "LORA" else VECTOR
    rules = [rule for rule in rules_of(model.config) if _place(rule).format(i=0, e=0) + first in arrays]
    if not rules:
        raise UserError(f"{folder}: has nothing for any kernel of model.kind={model.config.kind!r}")
    specs = named_specs(model.specs())
    method = (_lora if theirs["peft_type"] == "LORA" else _ia3)(theirs, rules, specs)
    own = to_ours(
        _rules(rules, method), _added(model.specs(), method), arrays, "", lambda _, *what: placed(*what), str(folder)
    )
    return tune(model, method), _with_lengths(_beside(params, own), model.specs(), divide=True)


def _with_prompt(folder: Path, model: Model, params: Params, arrays: Any) -> tuple[TunedModel, Params]:
    table = named_specs(model.specs())[TABLE]
    if set(arrays) != {PROMPT} or arrays[PROMPT].shape[1:] != table.shape[1:]:
        raise UserError(f"{folder}: expected one array {PROMPT!r} of width {table.shape[1]}")
    prompt = np.asarray(arrays[PROMPT], np.float32)
    tuned = tune(model, PromptMethod(PromptConfig(length=len(prompt))))
    own = {TABLE.replace("/", "/prompt/"): jnp.asarray(prompt)}
    return tuned, _beside(params, unflatten_dict(own, sep="/"))


def save_adapter(path: str | Path, model: TunedModel, params: Params, base: str) -> None:
    """Writes what lies beside the kernels alone; `base` is what adapter_config.json calls the model that it belongs to.
    Raises UserError: the method or the family has no counterpart there, or its arrays hold several kernels here of
    which some have nothing beside them, or updates with other As."""
    method, specs = model.method, named_specs(model.base.specs())
    if method.config.kind == "prompt":
        prompt = np.asarray(params["token_embedding"]["prompt"]["embedding"], np.float32)
        more = {"num_virtual_tokens": len(prompt), "token_dim": prompt.shape[1], "task_type": _task(model)}
        return _write(path, {PROMPT: lambda: prompt}, {"peft_type": "PROMPT_TUNING", **more}, base)
    if method.config.kind not in ("lora", "ia3"):
        accepted = "'lora', 'ia3', 'prompt'"
        raise UserError(f"tuning.kind={method.config.kind!r} has no counterpart in peft; accepted: {accepted}")
    own = flatten_dict(_with_lengths(params, model.base.specs(), divide=False), sep="/")
    has = {name for name in specs if any(key.startswith(_stem(name) + method.beside + "/") for key in own)}
    rules = [rule for rule in rules_of(model.base.config) if (ours := _ours(rule, specs)) and set(ours) <= has]
    if alone := sorted(has - {name for rule in rules for name in _ours(rule, specs)}):
        raise UserError(
            f"{path}: {alone[0]!r} has no array of its own there, and its neighbours have nothing beside them"
        )
    if method.beside == "lora":
        _check_firsts(path, rules, specs, own)
    added = _added(model.base.specs(), method)
    arrays = to_theirs(_rules(rules, method), added, lambda name: np.asarray(own[name], np.float32), np.float32)
    content = {
        "target_modules": sorted({_module(rule) for rule in rules}),
        "fan_in_fan_out": any(not rule.out_first for rule in rules),
        **_their_fields(method, rules, specs),
    }
    _write(path, arrays, content, base)


def _write(path: str | Path, arrays: Any, content: dict[str, Any], base: str) -> None:
    folder = make_folder(path, "--out")
    write_folder(folder, arrays)
    (folder / "model.safetensors").rename(folder / ARRAYS)
    content = {"base_model_name_or_path": base, "inference_mode": True, **content}
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def _task(model: TunedModel) -> str:
    names = {("decoder",): "CAUSAL_LM", ("encoder", "decoder"): "SEQ_2_SEQ_LM"}
    return names.get(model.base.config.streams, "FEATURE_EXTRACTION")


def _check_firsts(path: Any, rules: list[Rule], specs: dict[str, ParamSpec], own: dict[str, Any]) -> None:
    for rule in rules:
        firsts = [np.asarray(own[f"{_stem(name)}lora/a"]) for name in _ours(rule, specs)]
        if any(not np.array_equal(first, firsts[0]) for first in firsts):
            what = f"{rule.theirs!r} has one A for several kernels here"
            raise UserError(f"{path}: {what}, whose updates differ in theirs")


def _stem(kernel: str) -> str:
    return kernel.removesuffix("kernel")


def _place(rule: Rule) -> str:
    """The beginning there of the names of what belongs to a rule's array."""
    return PREFIX + rule.theirs.removesuffix("weight")


def _module(rule: Rule) -> str:
    return rule.theirs.removesuffix(".weight").rpartition(".")[2]


def _ours(rule: Rule, specs: dict[str, ParamSpec]) -> list[str]:
    """The kernels here of a rule, in every block of a pattern."""
    names = (each.format(i=block, e=0) for each in rule.all_ours for block in range(8))
    return [name for name in dict.fromkeys(names) if name in specs and name.endswith("/kernel") and "/layers/" in name]


def _lora(theirs: dict[str, Any], rules: list[Rule], specs: dict[str, ParamSpec]) -> Method:
    return LowRankMethod(
        LoRAConfig(
            rank=theirs["r"],
            alpha=float(theirs["lora_alpha"]),
            rank_stabilised=bool(theirs.get("use_rslora")),
            dora=bool(theirs.get("use_dora")),
            dropout_rate=float(theirs.get("lora_dropout") or 0.0),
            targets=tuple(name for rule in rules for name in _ours(rule, specs)),
        )
    )


def _ia3(theirs: dict[str, Any], rules: list[Rule], specs: dict[str, ParamSpec]) -> Method:
    inside = set(theirs.get("feedforward_modules") or ())
    places: dict[bool, list[str]] = {True: [], False: []}
    for rule in rules:
        places[_module(rule) in inside] += _ours(rule, specs)
    return IA3Method(IA3Config(outputs=tuple(places[False]), inputs=tuple(places[True])))


def _their_fields(method: Method, rules: list[Rule], specs: dict[str, ParamSpec]) -> dict[str, Any]:
    """What adapter_config.json says of the method."""
    config = method.config
    if isinstance(config, IA3Config):
        inside = sorted({_module(rule) for rule in rules if _scales_input(rule, config)})
        return {"peft_type": "IA3", "feedforward_modules": inside, "modules_to_save": None}
    return {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout_rate,
        "use_rslora": config.rank_stabilised,
        "use_dora": config.dora,
        **PLAIN,
    }


def _scales_input(rule: Rule, config: IA3Config) -> bool:
    return matches(config.inputs, rule.all_ours[0].format(i=0, e=0))


def _rules(rules: list[Rule], method: Method) -> list[Rule]:
    """The rules of what is beside: an A belongs to every kernel of an array; all else lies side by side as they do."""
    found = []
    for rule in rules:
        stems = [f"{_stem(name)}{method.beside}" for name in rule.all_ours]

        def beside(part: str, theirs: str, rule: Rule = rule, stems: list[str] = stems, **how: Any) -> Rule:
            names = tuple(f"{stem}/{part}" for stem in stems)
            return Rule(_place(rule) + theirs, names if len(names) > 1 else names[0], by_head=rule.by_head, **how)

        if isinstance(method.config, IA3Config):
            into = _scales_input(rule, method.config)
            found.append(beside("into" if into else "out", VECTOR, row=into, column=not into))
            continue
        found += [Rule(_place(rule) + PARTS["a"], f"{stem}/a") for stem in stems]
        found += [beside(part, PARTS[part]) for part in (("b", "magnitude") if method.config.dora else ("b",))]
    return found


def _added(specs: Params, method: Method) -> Params:
    """The specs of what is beside alone."""
    named = named_specs(with_added(specs, method))
    return unflatten_dict({name: spec for name, spec in named.items() if f"/{method.beside}/" in name}, sep="/")


def _beside(params: Params, updates: Params) -> Params:
    """Both in one tree."""
    return unflatten_dict(flatten_dict(params, sep="/") | flatten_dict(updates, sep="/"), sep="/")


def _with_lengths(params: Params, specs: Params, *, divide: bool) -> Params:
    """The parameters with magnitudes divided by, or multiplied with, the lengths of their kernels' columns."""
    named, leaves = named_specs(specs), flatten_dict(params, sep="/")
    for name in [name for name in leaves if name.endswith("lora/magnitude")]:
        kernel = f"{name.removesuffix('lora/magnitude')}kernel"
        into = tuple(named[kernel].axes.index(axis) for axis in named[kernel].in_axes)
        lengths = np.sqrt(np.square(np.asarray(leaves[kernel], np.float32)).sum(into))
        leaves[name] = leaves[name] / lengths if divide else leaves[name] * lengths
    return unflatten_dict(leaves, sep="/")
