# SPDX-License-Identifier: Apache-2.0
"""What a tuning method is: parameters that lie beside some kernels, and what stands for such a kernel in the layers.

A tuned model is the model with more declared parameters. Beside `kernel` lies a dict called like the method, and on the
way into the layers both become one node that `project` and `Linear` know (`models/layers/tuned.py`).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.errors import UserError, nearest
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs
from t5x_like.models.layers.quantised import Quantised, Rounded
from t5x_like.models.model import Model


class TunedModel:
    """A model with what a method adds; `tune` makes one, of a class below its base's."""

    base: Model
    method: "Method"

    def specs(self) -> Params:
        """The base's and those of the method."""
        return with_added(self.base.specs(), self.method)

    def apply(self, params: Params, *args: Any, **more: Any) -> dict[str, Any]:
        return self.base.apply(joined(params, self.method), *args, **more)

    def encode(self, params: Params, *args: Any, **more: Any) -> Any:
        return self.base.encode(joined(params, self.method), *args, **more)  # type: ignore[attr-defined]

    def for_decoding(self, params: Params, *args: Any, **more: Any) -> Params:
        """Merged where that can be: what is beside would be computed for every token."""
        try:
            params = merge(params, self.base.specs(), self.method)
        except UserError:
            params = joined(params, self.method)
        return self.base.for_decoding(params, *args, **more)  # type: ignore[attr-defined]


class Method(ABC):
    """A tuning method with its config; as it stands here, beside kernels of linear maps inside layers."""

    beside: str  # the name of what lies beside a kernel
    leaf = "kernel"  # what the parameter is called that something lies beside
    model: type = TunedModel  # of a model that is tuned
    fields: tuple[str, ...] = ("targets",)  # of the config, with regular expressions of the kernels' names

    def __init__(self, config: Any):
        self.config = config

    @property
    def patterns(self) -> Mapping[str, tuple[str, ...]]:
        """The regular expressions by their field."""
        return {field: getattr(self.config, field) for field in self.fields}

    def takes(self, name: str, spec: ParamSpec, first: str) -> bool:
        """Whether anything may lie beside the parameter of a name; `first` is the first stream of the model.
        Nothing beside experts' kernels, which are multiplied in groups, by themselves."""
        return "/layers/" in f"/{name}" and name.endswith("/kernel") and spec.is_matrix and "expert" not in spec.axes

    @abstractmethod
    def added(self, name: str, kernel: ParamSpec) -> dict[str, ParamSpec]:
        """The specs of what lies beside a kernel."""

    @abstractmethod
    def node(self, kernel: Any, parts: Params) -> Any:
        """What stands for the kernel."""

    @abstractmethod
    def merged(self, node: Any, pattern: str, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """A kernel and a bias that compute the same; a `UserError` where there are none."""


def tune(base: Model, method: Method) -> Any:
    """A model that is tuned by a method."""
    kind = type(f"Tuned{type(base).__name__}", (method.model, type(base)), {})
    model: Any = object.__new__(kind)
    vars(model).update(vars(base), base=base, method=method)
    if (most := getattr(base, "max_length", None)) is not None:  # positions that are left for text
        model.max_length = most - getattr(method.config, "length", 0)
    return model


def with_added(specs: Params, method: Method) -> Params:
    """The specs of a model with those of a method; a pattern that matches no kernel of a layer is a `UserError`."""
    leaves = flatten_dict(specs, sep="/", is_leaf=lambda _, node: isinstance(node, ParamSpec))
    first = "encoder" if any(name.startswith("encoder/") for name in leaves) else "decoder"
    kernels = [name for name, spec in leaves.items() if method.takes(name, spec, first)]
    for field, patterns in method.patterns.items():
        for number, pattern in enumerate(patterns):
            if not any(re.fullmatch(pattern, name) for name in kernels):
                raise UserError(
                    f"tuning.{field}[{number}]: pattern {pattern!r} matches the whole name of no kernel of a layer; "
                    f"accepted: e.g. {', '.join(map(repr, kernels[:4]))}{nearest(pattern, kernels)}"
                )
    for name in kernels:
        if any(re.fullmatch(pattern, name) for patterns in method.patterns.values() for pattern in patterns):
            place = name.removesuffix(method.leaf) + method.beside
            leaves |= {f"{place}/{part}": spec for part, spec in method.added(name, leaves[name]).items()}
    return unflatten_dict(leaves, sep="/")


def beside(kernel: ParamSpec, into: tuple[str, ...], out: tuple[str, ...], init: Any, **own: int) -> ParamSpec:
    """A parameter beside a kernel, over some of its axes and its `own`, with their sizes. Without `into` no matrix."""
    sizes = {**dict(zip(kernel.axes, kernel.shape, strict=True)), **own}
    axes = (*(axis for axis in kernel.axes if axis not in kernel.in_axes + kernel.out_axes), *into, *out)
    shape = tuple(sizes[axis] for axis in axes)
    return ParamSpec(shape, axes, into, out if into else (), init, kernel.stream, kernel.met)


def joined(params: Any, method: Method) -> Any:
    """The parameters as layers read them: a kernel and what lies beside it as one node."""
    if not isinstance(params, dict):
        return params
    rest = {name: joined(value, method) for name, value in params.items() if name != method.beside}
    if method.beside not in params:
        return rest
    return rest | {method.leaf: method.node(rest[method.leaf], params[method.beside])}


def merge(params: Params, specs: Params, method: Method) -> Params:
    """The parameters of the base, whose specs are given, that compute the same; a `UserError` where there are none."""
    named = named_specs(specs)

    def walk(node: Any, path: str) -> Any:
        if not isinstance(node, dict):
            return node
        rest = {name: walk(value, f"{path}{name}/") for name, value in node.items() if name != method.beside}
        if method.beside in node:
            if isinstance(rest[method.leaf], Quantised | Rounded):
                raise UserError(f"quantisation.kind: a kernel in {rest[method.leaf].how.kind} takes no updates")
            whole = method.node(rest[method.leaf], node[method.beside])
            kernel, bias = method.merged(whole, _pattern(named[f"{path}{method.leaf}"]), rest.get("bias"))
            rest |= {"kernel": kernel} | ({} if bias is None else {"bias": bias})
        return rest

    return dict(walk(params, ""))


def _pattern(kernel: ParamSpec) -> str:
    """Of x W, with a letter for every dimension of a kernel; those that stand beside a product are x's and y's too."""
    letters = dict(zip(kernel.axes, "ABCDEFGH", strict=False))
    side = "".join(letters[axis] for axis in kernel.axes if axis not in kernel.in_axes + kernel.out_axes)
    into, out = ("".join(letters[axis] for axis in axes) for axes in (kernel.in_axes, kernel.out_axes))
    return f"{side}{into},{''.join(letters.values())}->{side}{out}"
