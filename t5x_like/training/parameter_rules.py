# SPDX-License-Identifier: Apache-2.0
"""Numbers for parameters by name: the first rule whose pattern matches a parameter's whole name holds for it."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from t5x_like.config.optimizer import Rules
from t5x_like.errors import UserError, nearest
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf of nested dicts: its path, joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def layer_numbers(specs: Params, order: Callable[[int], np.ndarray] = np.arange) -> dict[str, tuple[str, np.ndarray]]:
    """Of every parameter inside a stack, by its name: the stack's name, and which layers of it it holds, [repeats].
    `order` says which repeats lie where: in a circular pipeline not one after the other."""
    named = named_specs(specs)
    inside = {name: name.partition("layers/") for name in named if "layers" in named[name].axes}
    widths: dict[str, int] = {}  # blocks of a stack's pattern
    for stack, _, rest in inside.values():
        widths[stack] = max(widths.get(stack, 0), int(rest.split("/")[0]) + 1)
    numbers = {}
    for name, (stack, _, rest) in inside.items():
        repeats = order(named[name].shape[named[name].axes.index("layers")])
        numbers[name] = stack, repeats * widths[stack] + int(rest.split("/")[0])
    return numbers


def depths_of(numbers: Mapping[str, tuple[str, np.ndarray]]) -> dict[str, int]:
    """Layers of each stack, of what `layer_numbers` gives."""
    depths: dict[str, int] = {}
    for stack, layers in numbers.values():
        depths[stack] = max(depths.get(stack, 0), int(layers.max()) + 1)
    return depths


def multipliers(rules: Rules, specs: Params, field: str) -> Params:
    """Returns the tree of numbers that the rules give to the parameters; `field` is the config's, for errors. Raises
    UserError: a parameter that no rule matches, or a rule that is the first to match none."""
    patterns = [re.compile(pattern) for pattern, _ in rules]
    leaves, structure = jax.tree_util.tree_flatten_with_path(specs, is_leaf=lambda node: isinstance(node, ParamSpec))
    names = [path_name(path) for path, _ in leaves]
    chosen: list[int] = []
    for name in names:
        first = next((i for i, pattern in enumerate(patterns) if pattern.fullmatch(name)), None)
        if first is None:
            close = nearest(name, [pattern for pattern, _ in rules])
            raise UserError(
                f"{field}: no rule matches parameter {name!r}; accepted: rules for every parameter, such as "
                f"['.*', 1.0] at the end{close}"
            )
        chosen.append(first)
    for i, (text, _) in enumerate(rules):
        if i not in chosen:
            raise UserError(f"{field}[{i}]: {_why_unused(i, patterns, names, text)}")
    return jax.tree.unflatten(structure, [rules[i][1] for i in chosen])


def _why_unused(i: int, patterns: list[re.Pattern[str]], names: list[str], text: str) -> str:
    taken = next((name for name in names if patterns[i].fullmatch(name)), None)
    if taken is None:
        like = ", ".join(_like(text, names))
        return f"pattern {text!r} matches the whole name of no parameter; accepted: e.g. {like}"
    earlier = next(pattern.pattern for pattern in patterns if pattern.fullmatch(taken))
    return (
        f"pattern {text!r} is never reached: earlier rules match all its parameters, such as {taken!r} by {earlier!r}; "
        "accepted: the narrower pattern first"
    )


def _like(text: str, names: list[str]) -> list[str]:
    found = [name for name in names if re.search(text, name)]  # a pattern for a part of a name, the usual slip
    return [repr(name) for name in (found or difflib.get_close_matches(text, names, n=3, cutoff=0.0))[:3]]
