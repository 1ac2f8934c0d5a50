# SPDX-License-Identifier: Apache-2.0
"""Whose array is whose: rules from names in a Hugging Face checkpoint to parameters here, read in either direction.

    Rule("model.layers.{i}.self_attn.q_proj.weight", "decoder/layers/{i}/attention/query/kernel")

`{i}` runs over layers and `{e}` over experts, which lie stacked here. How the numbers lie follows from the ParamSpec: a
matrix is [out, in] there, with heads and their width as one dimension, and [in, ..., out, ...] here; anything else is
flat but for tables.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from t5x_like.errors import UserError, nearest
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs

USUAL = {  # names in config.json of our fields, in most families
    "num_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
}
_BLOCK = "attention/query attention/key attention/value attention/out attention_norm mlp/up mlp/out mlp_norm"
Parts = Iterator[tuple[tuple[int, ...], np.ndarray]]
Put = Callable[[str, ParamSpec, Parts], Any]


@dataclass(frozen=True)
class Rule:
    """One array there; here one parameter, or several that lie side by side in its output dimension."""

    theirs: str
    ours: str | tuple[str, ...]
    out_first: bool = True  # whether a matrix is [out, in]; GPT-2's are [in, out]
    row: bool = False  # whether a vector is [1, n]
    column: bool = False  # or [n, 1]
    shape: tuple[int, ...] | None = None  # as it is there, where it is neither flat nor a matrix: [out, ...] of one
    every: int = 1  # there it is of the layers whose number this divides, and numbered by themselves
    by_head: bool = False  # whether what lies side by side does so in every head, [H, parts, C], as in GPT-NeoX

    @property
    def all_ours(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def affine(theirs: str, ours: str) -> list[Rule]:
    """A map's matrix and bias, or a norm's scale and bias."""
    name = "scale" if ours.endswith("norm") else "kernel"
    return [Rule(f"{theirs}.weight", f"{ours}/{name}"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def block(theirs: str) -> dict[str, str]:
    """Names there by ours of a block's parts: query, key, value, out, their norm; up, out, their norm."""
    return dict(zip(_BLOCK.split(), theirs.split(), strict=True))


def layers(theirs: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    """Of all layers of a stack, with the names of a layer's parts there by ours; `theirs` has an {i}."""
    return [rule for own, name in names.items() for rule in affine(f"{theirs}.{name}", f"{ours}/layers/{{i}}/{own}")]


def label_names(count: int | None) -> dict[str, dict[str, Any]]:
    """A config.json's names of labels."""
    names = [f"LABEL_{number}" for number in range(count or 2)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


@dataclass(frozen=True)
class _Match:
    """An array there, and the parameters here that it is: paths, and where in the stacks of layers and experts."""

    theirs: str
    ours: tuple[tuple[str, tuple[int, ...]], ...]
    rule: Rule


def _matches(rules: Sequence[Rule], specs: Mapping[str, ParamSpec]) -> list[_Match]:
    """Expands the rules of arrays that a model of these specs has. Raises UserError: a parameter that no rule names:
    the family's checkpoints have no counterpart of it."""
    widths: dict[str, int] = {}  # of patterns of layers, whose blocks lie in stacks of their own
    for stack, number in (found for path in specs for found in re.findall(r"(.*)/layers/(\d+)/", path)):
        widths[stack] = max(widths.get(stack, 0), int(number) + 1)
    found: list[_Match] = []
    for rule in rules:
        if "{i}" not in rule.theirs:
            if all(path in specs for path in rule.all_ours):
                found.append(_Match(rule.theirs, tuple((path, ()) for path in rule.all_ours), rule))
            continue
        width = widths.get(rule.all_ours[0].partition("/layers/")[0], 0)
        for block in range(width):
            paths = [path.format(i=block) for path in rule.all_ours]
            if not all(path in specs for path in paths):
                continue
            layers, *more = specs[paths[0]].shape
            for at in np.ndindex((layers, more[0]) if "{e}" in rule.theirs else (layers,)):
                theirs = rule.theirs.format(i=(at[0] * width + block) // rule.every, e=at[-1])
                found.append(_Match(theirs, tuple((path, at) for path in paths), rule))
    named = {path for match in found for path, _ in match.ours}
    if missing := [path for path in specs if path not in named]:
        raise UserError(f"parameter {missing[0]!r} has no counterpart in this family's checkpoints")
    return found


def to_ours(
    rules: Sequence[Rule], specs: Params, arrays: Mapping[str, np.ndarray], ignored: str, put: Put, source: str
) -> Params:
    """Returns a tree of parameters out of arrays there, one array in memory at a time.

    Args:
      ignored: a regular expression of names that carry nothing, such as buffers.
      put: (path, spec, parts) -> what stands in the tree. The parts are float32 arrays and where each lies in the
        stacks of layers and experts; one part at () is the whole.
      source: what errors call the arrays.

    Raises:
      UserError: an array is missing, unexpected, or of another shape.
    """
    named = named_specs(specs)
    matches = _matches(rules, named)
    expected = {match.theirs for match in matches}
    if missing := sorted(expected - set(arrays)):
        raise UserError(f"{source}: lacks {missing[0]!r}{nearest(missing[0], arrays)}, and {len(missing) - 1} more")
    if odd := sorted(name for name in set(arrays) - expected if not re.fullmatch(ignored, name)):
        raise UserError(f"{source}: has {odd[0]!r}, which no parameter here stands for, and {len(odd) - 1} more")
    by_path: dict[str, list[tuple[tuple[int, ...], _Match, int]]] = {}
    for match in matches:
        for place, (path, at) in enumerate(match.ours):
            by_path.setdefault(path, []).append((at, match, place))

    def parts(path: str) -> Parts:
        spec = named[path]
        for at, match, place in by_path[path]:
            sizes = [_out_size(named[other], len(at)) for other, _ in match.ours]
            yield at, _part(arrays[match.theirs], spec, spec.shape[len(at) :], match, sizes, place, source)

    return dict(unflatten_dict({path: put(path, named[path], parts(path)) for path in by_path}, sep="/"))


def _is_matrix(spec: ParamSpec) -> bool:
    own = tuple(axis for axis in spec.axes if axis not in ("layers", "expert"))
    return spec.is_matrix and not spec.lookup and own == spec.in_axes + spec.out_axes and spec.in_axes != ("vocab",)


def _out_size(spec: ParamSpec, stacks: int) -> int:
    sizes = dict(zip(spec.axes, spec.shape, strict=True))
    if _is_matrix(spec):
        return math.prod(sizes[axis] for axis in spec.out_axes)
    return math.prod(spec.shape[stacks:])


def _part(
    array: np.ndarray,
    spec: ParamSpec,
    shape: tuple[int, ...],
    match: _Match,
    sizes: Sequence[int],
    place: int,
    source: str,
) -> np.ndarray:
    """The numbers of one parameter in an array there, as they lie here."""
    out_first = match.rule.out_first or not _is_matrix(spec)
    wanted = list(array.shape)
    if match.rule.shape == array.shape:
        array = array.reshape(len(array), -1) if _is_matrix(spec) else array.reshape(-1)
    if len(sizes) > 1:
        if array.shape[0 if out_first else -1] != sum(sizes):
            raise UserError(f"{source}: {match.theirs!r} has shape {array.shape}; expected {sum(sizes)} outputs")
        start = sum(sizes[:place])
        if match.rule.by_head:
            array = _heads(array, len(sizes) * spec.shape[-1])
            array = array.reshape(len(array), len(sizes), -1, *array.shape[2:])[:, place].reshape(-1, *array.shape[2:])
        else:
            array = array[start : start + sizes[place]] if out_first else array[..., start : start + sizes[place]]
    if _is_matrix(spec) and match.rule.out_first:
        array = array.T
    if array.size != math.prod(shape) or (_is_matrix(spec) and array.shape[-1] != sizes[place]):
        raise UserError(f"{source}: {match.theirs!r} has shape {wanted}; the config asks for {list(shape)}")
    return np.asarray(array, np.float32).reshape(shape)


def _heads(array: np.ndarray, width: int) -> np.ndarray:
    """[H width, ...] to [H, width, ...]."""
    return array.reshape(-1, width, *array.shape[1:])


def to_theirs(
    rules: Sequence[Rule], specs: Params, read: Callable[[str], np.ndarray], dtype: Any
) -> dict[str, Callable[[], np.ndarray]]:
    """Returns what makes each array there, by name; `read` gives a parameter by its path."""
    named = named_specs(specs)

    def make(match: _Match) -> np.ndarray:
        parts = []
        for path, at in match.ours:
            spec, value = named[path], read(path)[at]
            if _is_matrix(spec):
                value = value.reshape(-1, _out_size(spec, len(at)))
                value = value.T if match.rule.out_first else value
            elif not (spec.lookup or "vocab" in spec.axes):
                value = value.reshape(-1)
            parts.append(value[None] if match.rule.row else value[:, None] if match.rule.column else value)
        if match.rule.by_head:
            heads = np.concatenate([_heads(part, spec.shape[-1]) for part in parts], axis=1)
            return np.ascontiguousarray(heads.reshape(-1, *heads.shape[2:])).astype(dtype)
        axis = 0 if match.rule.out_first or parts[0].ndim == 1 else -1
        made = np.ascontiguousarray(np.concatenate(parts, axis)).astype(dtype)
        return made if match.rule.shape is None else made.reshape(match.rule.shape)

    return {match.theirs: lambda match=match: make(match) for match in _matches(rules, named)}  # type: ignore[misc]
