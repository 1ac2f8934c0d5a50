# SPDX-License-Identifier: Apache-2.0
"""A model with kernels in few bits (`models/layers/quantised.py`).

In bfloat16 a kernel is an array of that dtype. In other formats there is a dict in its place among the parameters:
`kernel/codes`, `kernel/scales`, and with double quantisation `kernel/second` and `kernel/offset`. On the way into the
layers it becomes one node that `project` knows. A tuning method lies beside it as it would beside the kernel.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.config.quantisation import Bf16Config, QuantisationConfig
from t5x_like.errors import UserError, nearest
from t5x_like.models.layers.levels import BLOCK
from t5x_like.models.layers.parameters import Constant, Params, ParamSpec, named_specs
from t5x_like.models.layers.quantised import Quantised, Rounded, decode, encode, group_of
from t5x_like.models.model import Model

PARTS = ("codes", "scales", "second", "offset")  # of a kernel


class QuantisedModel:
    """A model with kernels in few bits; `quantised_model` makes one, of a class below that of the model inside."""

    inner: Model  # tuned or not
    how: QuantisationConfig
    kernels: dict[str, ParamSpec]  # that the format holds for, by name

    def specs(self) -> Params:
        """Those of what is kept."""
        return self.inner.specs() if self.how.aware else stored_specs(self.inner.specs(), self.how)

    def init(self, key: jax.Array) -> Params:
        return stored(self, self.inner.init(key))  # type: ignore[arg-type]

    def apply(self, params: Params, *args: Any, **more: Any) -> dict[str, Any]:
        return self.inner.apply(self._nodes(params), *args, **more)

    def encode(self, params: Params, *args: Any, **more: Any) -> Any:
        return self.inner.encode(self._nodes(params), *args, **more)  # type: ignore[attr-defined]

    def for_decoding(self, params: Params, *args: Any, **more: Any) -> Params:
        return self.inner.for_decoding(self._nodes(params), *args, **more)  # type: ignore[attr-defined]

    def _nodes(self, params: Params) -> Params:
        """The parameters as layers read them."""

        def node(name: str, kernel: Any) -> Any:
            if self.how.aware and isinstance(kernel, jax.Array | np.ndarray):
                return Rounded(kernel, self.how)
            return as_node(kernel, self.kernels[name], self.how) if isinstance(kernel, dict) else kernel

        return _mapped(params, self.kernels, node)


def quantised_model(model: Model, how: QuantisationConfig | None) -> Any:
    """A model whose kernels are kept as a format has it; None: the model itself. Raises UserError: a pattern that
    matches no kernel of a layer."""
    if how is None:
        return model
    kind = type(f"Quantised{type(model).__name__}", (QuantisedModel, type(model)), {})
    made: Any = object.__new__(kind)
    vars(made).update(vars(model), inner=model, how=how, kernels=_kernels(model.specs(), how))
    return made


def _kernels(specs: Params, how: QuantisationConfig) -> dict[str, ParamSpec]:
    """The kernels that a format holds for: those of linear maps inside layers, routers' apart, that can be grouped."""
    named = {name: spec for name, spec in named_specs(specs).items() if _may_be_quantised(name, spec)}
    for number, pattern in enumerate(how.targets):
        if not any(re.fullmatch(pattern, name) for name in named):
            raise UserError(
                f"quantisation.targets[{number}]: pattern {pattern!r} matches the whole name of no kernel of a layer; "
                f"accepted: e.g. {', '.join(map(repr, list(named)[:4]))}{nearest(pattern, list(named))}"
            )
    chosen = {name: spec for name, spec in named.items() if how.holds(name)}
    taken = {name: spec for name, spec in chosen.items() if group_of(how, inputs_of(spec)) is not None}
    if not taken:
        raise UserError(
            f"quantisation.kind: {how.kind!r} needs kernels whose inputs are a multiple of 16, of which there are none"
        )
    return taken


def _may_be_quantised(name: str, spec: ParamSpec) -> bool:
    in_layer = "/layers/" in f"/{name}" and name.endswith("/kernel") and "router" not in spec.axes
    return in_layer and spec.is_matrix and spec.axes == _side(spec) + spec.in_axes + spec.out_axes


def _side(spec: ParamSpec) -> tuple[str, ...]:
    """The axes of a kernel that lie beside its product."""
    return tuple(axis for axis in spec.axes if axis not in spec.in_axes + spec.out_axes)


def sizes_of(spec: ParamSpec) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A kernel's sizes beside its product, contracted, and produced."""
    side = len(_side(spec))
    inside = side + len(spec.in_axes)
    return spec.shape[:side], spec.shape[side:inside], spec.shape[inside:]


def inputs_of(spec: ParamSpec) -> int:
    return math.prod(sizes_of(spec)[1])


def whole_specs(model: Model) -> Params:
    """The specs of a model's parameters before they were quantised."""
    return model.inner.specs() if isinstance(model, QuantisedModel) else model.specs()


def stored_specs(specs: Params, how: QuantisationConfig) -> Params:
    """The specs of what is kept of a model's parameters."""
    narrow = isinstance(how, Bf16Config)

    def kept(_: str, spec: ParamSpec) -> Any:
        return dataclasses.replace(spec, dtype=jnp.bfloat16) if narrow else _parts_of(spec, how)

    return _mapped(specs, _kernels(specs, how), kept)


def _parts_of(spec: ParamSpec, how: QuantisationConfig) -> dict[str, ParamSpec]:
    """The inputs are one dimension, cut over a mesh as the first of them is; scales are not cut there."""
    side, _, produced = sizes_of(spec)
    side_axes, inputs = _side(spec), inputs_of(spec)
    group = group_of(how, inputs)
    assert group is not None
    four = how.kind in ("int4", "nf4")

    def part(shape: tuple[int, ...], axes: tuple[str, ...], dtype: Any) -> ParamSpec:
        return ParamSpec(shape, axes, (), (), Constant(0.0), spec.stream, spec.met, dtype=dtype)

    dtype = jnp.uint8 if four else jnp.int8 if how.kind == "int8" else jnp.float8_e4m3fn
    rows = inputs // 2 if four else inputs
    codes = part((*side, rows, *produced), (*side_axes, spec.in_axes[0], *spec.out_axes), dtype)
    double = getattr(how, "double", False)
    shape, axes = (*side, inputs // group, *produced), (*side_axes, "blocks", *spec.out_axes)
    found = {"codes": codes, "scales": part(shape, axes, jnp.uint8 if double else jnp.float32)}
    if double:
        blocks = -(-inputs // group * math.prod(produced) // BLOCK)
        found["second"] = part((*side, blocks), (*side_axes, "blocks"), jnp.float32)
        found["offset"] = part(side, side_axes, jnp.float32)
    return found


def stored(model: Model, params: Params) -> Params:
    """What is kept of parameters as `whole_specs` describes them."""
    if not isinstance(model, QuantisedModel) or model.how.aware:
        return params
    return _mapped(params, model.kernels, lambda name, kernel: stored_kernel(kernel, model.kernels[name], model.how))


def stored_kernel(kernel: jax.Array, spec: ParamSpec, how: QuantisationConfig) -> Any:
    """What is kept of a kernel, or of one that lacks some of the dimensions beside its product."""
    if isinstance(how, Bf16Config):
        return kernel.astype(jnp.bfloat16)
    _, into, produced = sizes_of(spec)
    return as_parts(encode(kernel, how, into, len(produced)))


def as_parts(node: Quantised) -> dict[str, jax.Array]:
    return {name: part for name in PARTS if (part := getattr(node, name)) is not None}


def as_node(parts: dict[str, jax.Array], spec: ParamSpec, how: QuantisationConfig) -> Quantised:
    _, into, produced = sizes_of(spec)
    return Quantised(**parts, how=how, into=into, produced=len(produced))


def dequantised(model: Model, params: Params, *, masters: bool = False) -> tuple[Any, Params]:
    """The model inside with the parameters that it computes with; its `masters` are those that were trained through
    rounded ones."""
    if not isinstance(model, QuantisedModel):
        return model, params
    how, kernels = model.how, model.kernels

    def whole(name: str, kernel: Any) -> jax.Array:
        if isinstance(how, Bf16Config):
            return kernel.astype(jnp.float32)
        if not how.aware:
            return decode(as_node(kernel, kernels[name], how))
        _, into, produced = sizes_of(kernels[name])
        return kernel if masters else decode(encode(kernel, how, into, len(produced)))

    return model.inner, _mapped(params, kernels, whole)


def filled(kept: dict[str, jax.Array], parts: Any, spec: ParamSpec, how: QuantisationConfig) -> dict[str, jax.Array]:
    """What is kept of a kernel that comes in parts, (index beside the product, array) each; `kept` is used up."""
    for at, part in parts:
        new = _stored_kernel(part, spec, how)
        kept = {
            name: _put(array, new[name], at) if at else jax.device_put(new[name], array.sharding)
            for name, array in kept.items()
        }
    return kept


_stored_kernel = jax.jit(stored_kernel, static_argnums=(1, 2))


@partial(jax.jit, donate_argnums=0)
def _put(whole: jax.Array, part: jax.Array, at: tuple[jax.Array, ...]) -> jax.Array:
    return whole.at[at].set(part)


def _mapped(params: Params, names: Any, function: Callable[[str, Any], Any]) -> Params:
    """The tree with what `function` makes of the nodes that have these names."""

    def walk(node: Any, path: str) -> Any:
        if path in names:
            return function(path, node)
        if not isinstance(node, dict):
            return node
        return {name: walk(child, f"{path}/{name}" if path else name) for name, child in node.items()}

    return dict(walk(params, ""))
