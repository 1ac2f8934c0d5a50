# SPDX-License-Identifier: Apache-2.0
"""Declaring parameters: one helper through which every parameter of every layer goes, so that its meaning is recorded.

Optimizers, weight decay, tuning methods and shardings read a `ParamSpec`; nobody guesses from a shape what a parameter
is (a stack of norms has two dimensions, and is no matrix).
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jax.typing import DTypeLike

from t5x_like.config.attention import AttentionConfig

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Normal:
    """Initial values drawn from a normal distribution of mean 0."""

    stddev: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return (self.stddev * jax.random.normal(key, shape)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Constant:
    """One initial value everywhere."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jnp.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Attends:
    """Whom the queries that a kernel makes attend to: the two products of attention that no weight takes part in."""

    stream: str  # of the keys
    causal: bool  # which of them, with the window; see `MaskSpec`
    window: int | None
    kind: AttentionConfig | None = None  # how else they are chosen


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """What a parameter is. Streams are "own", that a stack runs, and "memory", that it looks at, until `on_streams`."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]  # logical names of its dimensions, one each
    in_axes: tuple[str, ...] = ()  # of those that a product with this parameter contracts; none: not a matrix
    out_axes: tuple[str, ...] = ()  # of those that it produces
    init: Callable[[jax.Array, tuple[int, ...], DTypeLike], jax.Array] = Constant(0.0)  # draws the initial value
    stream: str = "own"  # whose tokens meet it
    met: float = 1.0  # how much of it a token meets: k / E of E experts' if sent to k, L if L layers share it
    lookup: bool = False  # whether a token takes a row of it, and nothing is multiplied
    attends: Attends | None = None  # of a kernel that makes queries
    dtype: DTypeLike | None = None  # in which it is kept; None: the policy's

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"a parameter of shape {self.shape} needs {len(self.shape)} axis names, not {self.axes}")

    @property
    def is_matrix(self) -> bool:
        """Whether it maps inputs to outputs, whatever the number of its dimensions."""
        return bool(self.in_axes and self.out_axes)

    @property
    def is_looked_up(self) -> bool:
        """Whether tokens take rows of it; one that is tied makes logits, too."""
        return self.lookup or self.in_axes == ("vocab",)

    def stacked(self, layers: int, shared: bool = False) -> "ParamSpec":
        """The same parameter, once for each of `layers` layers, or once for all of them."""
        count, met = (1, layers * self.met) if shared else (layers, self.met)
        return dataclasses.replace(self, shape=(count, *self.shape), axes=("layers", *self.axes), met=met)

    def on_streams(self, own: str, memory: str = "memory") -> "ParamSpec":
        """The same parameter in a stack that runs the stream `own` and looks at `memory`."""
        names = {"own": own, "memory": memory}
        attends = self.attends
        if attends is not None:
            attends = dataclasses.replace(attends, stream=names.get(attends.stream, attends.stream))
        return dataclasses.replace(self, stream=names.get(self.stream, self.stream), attends=attends)


_record: ContextVar[dict[tuple[str, ...], ParamSpec] | None] = ContextVar(
    "parameter specs being recorded", default=None
)


def parameter(module: nn.Module, name: str, spec: ParamSpec) -> Any:
    """Declares the parameter `name` of a Linen module and returns its value."""
    if module.has_variable("params", name):
        return module.get_variable("params", name)
    record = _record.get()
    if record is not None:
        record[(*module.path, name)] = spec
    return module.param(name, lambda key: spec.init(key, spec.shape, jnp.float32))


def record_specs(module: nn.Module, *args: Any) -> Params:
    """Returns the nested dict of ParamSpec that `module`, called with `args`, declares. Computes nothing."""
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple(jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return unflatten_dict(dict(_recorded(module, structure, shapes)))


@functools.lru_cache(maxsize=1024)  # to trace a layer takes longer than to read what it declared
def _recorded(module: nn.Module, structure: Any, leaves: Any) -> tuple[tuple[tuple[str, ...], ParamSpec], ...]:
    record: dict[tuple[str, ...], ParamSpec] = {}
    token = _record.set(record)
    try:
        jax.eval_shape(module.init, jax.random.key(0), *jax.tree.unflatten(structure, leaves))
    finally:
        _record.reset(token)
    return tuple(record.items())


def call(module: nn.Module, params: Params, *args: Any) -> Any:
    """Runs a Linen module as what it is here: a pure function of its parameters."""
    return module.apply({"params": params}, *args)


def map_specs(function: Callable[..., Any], specs: Params, *others: Any) -> Params:
    """Maps over the ParamSpecs of a tree, and what other trees have in their places."""
    return jax.tree.map(function, specs, *others, is_leaf=lambda node: isinstance(node, ParamSpec))


def named_specs(specs: Params) -> dict[str, ParamSpec]:
    """{name: spec} of a tree, a name being the path joined by slashes."""
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=lambda node: isinstance(node, ParamSpec))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): spec for path, spec in leaves}


def initialise(specs: Params, key: jax.Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Draws every parameter from a key folded from its own path: its value depends on the seed and its name alone, not
    on the mesh or on other parameters. Stacked layers are drawn in one piece."""

    def draw(path: tuple[Any, ...], spec: ParamSpec) -> jax.Array:
        name = "/".join(str(entry.key) for entry in path)
        return spec.init(jax.random.fold_in(key, zlib.crc32(name.encode())), spec.shape, spec.dtype or dtype)

    return jax.tree_util.tree_map_with_path(draw, specs, is_leaf=lambda node: isinstance(node, ParamSpec))
