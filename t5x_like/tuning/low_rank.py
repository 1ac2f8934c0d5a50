# SPDX-License-Identifier: Apache-2.0
"""A model some of whose kernels have low-rank updates: `lora` lies beside `kernel`: `a`, `b` and maybe `magnitude`."""

import math
import re
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config.tuning import LoRAConfig
from t5x_like.errors import UserError, nearest
from t5x_like.models.layers.low_rank import LowRank, merged
from t5x_like.models.layers.parameters import Constant, Normal, Params, ParamSpec, named_specs
from t5x_like.models.model import Model

BESIDE = "lora"


class LowRankModel:
    """A model with updates; what else it has, it has of the base."""

    def __init__(self, base: Model, tuning: LoRAConfig):
        self.base, self.tuning = base, tuning

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def specs(self) -> Params:
        """The base's and those of the updates."""
        return with_updates(self.base.specs(), self.tuning)

    def apply(self, params: Params, *args: Any, **more: Any) -> dict[str, Any]:
        return self.base.apply(joined(params, self.tuning), *args, **more)

    def encode(self, params: Params, *args: Any, **more: Any) -> Any:
        return self.base.encode(joined(params, self.tuning), *args, **more)  # type: ignore[attr-defined]

    def for_decoding(self, params: Params, *args: Any, **more: Any) -> Params:
        """With the updates in the kernels: they would be multiplied for every token."""
        whole = merge_updates(params, self.base.specs(), self.tuning)
        return self.base.for_decoding(whole, *args, **more)  # type: ignore[attr-defined]


def with_updates(specs: Params, tuning: LoRAConfig) -> Params:
    """The specs of a model with those of its updates.

    Raises:
      UserError: a pattern that matches no kernel of a layer.
    """
    leaves = flatten_dict(specs, sep="/", is_leaf=lambda _, node: isinstance(node, ParamSpec))
    kernels = [name for name, spec in leaves.items() if _may_be_tuned(name, spec)]
    for number, pattern in enumerate(tuning.targets):
        if not any(re.fullmatch(pattern, name) for name in kernels):
            raise UserError(
                f"tuning.targets[{number}]: pattern {pattern!r} matches the whole name of no kernel of a layer; "
                f"accepted: e.g. {', '.join(map(repr, kernels[:4]))}{nearest(pattern, kernels)}"
            )
    for name in filter(tuning.targeted, kernels):
        place = name.removesuffix("kernel") + BESIDE
        leaves |= {f"{place}/{part}": spec for part, spec in _specs(leaves[name], tuning).items()}
    return unflatten_dict(leaves, sep="/")


def _may_be_tuned(name: str, spec: ParamSpec) -> bool:
    """Whether it is the kernel of a linear map inside a layer; experts' are multiplied in groups, without updates."""
    return "/layers/" in f"/{name}" and name.endswith("/kernel") and spec.is_matrix and "expert" not in spec.axes


def _specs(kernel: ParamSpec, tuning: LoRAConfig) -> dict[str, ParamSpec]:
    """Of A, drawn as a kernel is, of B, zero, and of DoRA's magnitude over the kernel's, 1."""
    sizes = dict(zip(kernel.axes, kernel.shape, strict=True))
    side = tuple(axis for axis in kernel.axes if axis not in kernel.in_axes + kernel.out_axes)

    def spec(into: tuple[str, ...], out: tuple[str, ...], init: Any) -> ParamSpec:
        axes = side + into + out
        shape = tuple({**sizes, "rank": tuning.rank}[axis] for axis in axes)
        return ParamSpec(shape, axes, into, out if into else (), init, kernel.stream, kernel.met)

    fan_in = math.prod(sizes[axis] for axis in kernel.in_axes)
    found = {
        "a": spec(kernel.in_axes, ("rank",), Normal(1 / math.sqrt(fan_in))),
        "b": spec(("rank",), kernel.out_axes, Constant(0.0)),
    }
    return found | ({"magnitude": spec((), kernel.out_axes, Constant(1.0))} if tuning.dora else {})


def joined(params: Any, tuning: LoRAConfig) -> Any:
    """The parameters as layers read them: a kernel and its update as one `LowRank`."""
    if not isinstance(params, dict):
        return params
    update = params.get(BESIDE)
    rest = {name: joined(value, tuning) for name, value in params.items() if name != BESIDE}
    if update is not None:
        magnitude = update.get("magnitude")
        rest["kernel"] = LowRank(rest["kernel"], update["a"], update["b"], magnitude, tuning.scale, tuning.dropout_rate)
    return rest


def merge_updates(params: Params, specs: Params, tuning: LoRAConfig) -> Params:
    """The parameters of the base that compute the same; `specs` are the base's."""
    named = named_specs(specs)

    def merge(node: Any, name: str) -> Any:
        if isinstance(node, LowRank):
            return merged(node, _pattern(named[name]))
        return (
            {key: merge(value, f"{name}/{key}" if name else key) for key, value in node.items()}
            if isinstance(node, dict)
            else node
        )

    return dict(merge(joined(params, tuning), ""))


def _pattern(kernel: ParamSpec) -> str:
    """Of x W, with a letter for every dimension of a kernel; those that stand beside a product are x's and y's too."""
    letters = dict(zip(kernel.axes, "ABCDEFGH", strict=False))
    dims = "".join(letters.values())
    side = "".join(letters[a] for a in kernel.axes if a not in kernel.in_axes + kernel.out_axes)
    into, out = ("".join(letters[axis] for axis in axes) for axes in (kernel.in_axes, kernel.out_axes))
    return f"{side}{into},{dims}->{side}{out}"
