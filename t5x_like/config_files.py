# SPDX-License-Identifier: Apache-2.0
"""From a config file and a command line to a typed configuration.

A file `configs/NAME.py` has `get_config()`, which returns an `ml_collections.ConfigDict`. `load_run` turns it, with the
command line's overrides, into a `RunConfig`, once, at the door; nothing further in reads a ConfigDict.
"""

import ast
import copy
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from t5x_like.config import RunConfig
from t5x_like.errors import UserError, nearest
from t5x_like.strict import convert


def load_run(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Loads a run from a config file and overrides such as `model.d_model=128`. Raises UserError: a missing file or a
    field that is misspelt, ill-typed or impossible, in one line."""
    content = load_file(path)
    if "base" in content:
        raise UserError(f"--config={path}: is a sweep (it has a field `base`); sweep.py takes sweeps")
    content = with_overrides(content, overrides)
    if content.get("init_from") or content.get("teacher"):
        from t5x_like.training.initial import completed  # which reads a model before its config is known

        content = completed(content)
    return convert(RunConfig, content).resolve()


def run_from_json(content: Mapping[str, Any]) -> RunConfig:
    """Rebuilds a run from what `config.json` of its folder holds."""
    return convert(RunConfig, {key: value for key, value in content.items() if key != "format"}).resolve()


def load_file(path: str) -> dict[str, Any]:
    """Calls `get_config()` of a Python file and returns its content as plain nested dicts."""
    if not Path(path).is_file():
        folder = Path(path).parent
        files = sorted(str(file) for file in folder.glob("*.py")) if folder.is_dir() else []
        raise UserError(f"--config={path}: no such file{nearest(path, files)}")
    spec = importlib.util.spec_from_file_location("t5x_like_config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: is no Python file; expected one with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--config={path}: {reason}") from error
    if isinstance(config, ConfigDict):
        return config.to_dict()
    if isinstance(config, dict):
        return config
    raise UserError(
        f"--config={path}: get_config() returned {type(config).__name__}; expected an ml_collections.ConfigDict"
    )


def with_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of `content` in which each `a.b.c=value` has replaced or added its field."""
    changed = copy.deepcopy(dict(content))
    fields = []
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign:
            raise UserError(f"--config.{override}: expected --config.field=value")
        fields.append((name, _parse(text)))
    # Kinds first, outer before inner: the order on the command line does not decide which fields a kind drops.
    kinds = sorted((field for field in fields if field[0].endswith(".kind")), key=lambda field: field[0].count("."))
    for name, value in [*kinds, *(field for field in fields if field not in kinds)]:
        set_field(changed, name, value)
    return changed


def set_field(content: dict[str, Any], name: str, value: Any) -> None:
    """Sets the dotted field `name` in nested dicts; a `kind` that replaces another drops that one's fields."""
    *parents, last = name.split(".")
    for i, parent in enumerate(parents):
        if not isinstance(content.setdefault(parent, {}), dict):
            raise UserError(f"{name}: {'.'.join(parents[: i + 1])} is a value and has no fields")
        content = content[parent]
    if last == "kind" and content.get("kind", value) != value:
        content.clear()
    content[last] = value


def _parse(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}  # None is Python's; "none" is a choice that some fields have
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
