# SPDX-License-Identifier: Apache-2.0
"""From logical names of dimensions to mesh axes, in two tables that read as sentences.

Fully sharded data parallelism: parameters put `embed` on fsdp, activations put `batch` on it. Tensor parallelism:
both put `mlp`, `heads`, `kv_heads` and `vocab` on tensor. Sequence parallelism: activations put `length` on seq.
Expert parallelism: both put `expert` on expert; between two expert layers that axis carries batch too. Pipeline
parallelism: parameters put `layers` on pipe, and activations in the pipeline their `stage`; before and after it pipe
carries batch too.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like.errors import UserError, unknown_name
from t5x_like.models.layers.parameters import Params, ParamSpec, named_specs
from t5x_like.parallel.ring import ring_attention

Rules = Mapping[str, tuple[str, ...]]

PARAMETER_RULES: Rules = {
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "vocab": ("tensor",),
    "expert": ("expert",),
    "layers": ("pipe",),
    "head_dim": (),
    "positions": (),
    "types": (),
    "pixels": (),  # of a patch of an image
    "head": (),  # of a small network on top of an encoder
    "classes": (),
    "buckets": (),
    "gates": (),
    "recurrent": ("tensor",),
    "router": (),
    "length": (),  # and what Linformer makes of it
    "projected": (),
    "features": (),  # of a Performer
    "rank": (),  # of a low-rank update
    "blocks": (),  # of numbers that share a scale
}

ACTIVATION_RULES: Rules = {
    "batch": ("pipe", "data", "fsdp", "expert"),
    "length": ("seq",),
    "kv_length": (),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "vocab": ("tensor",),
    "embed": (),
    "head_dim": (),
    "stage": ("pipe",),
    "microbatch": (),
    "expert": ("expert",),
    "expert_batch": ("pipe", "data", "fsdp"),  # of what lies with its experts
    "capacity": ("seq",),  # slots of an expert
    "router": (),
    "positions": (),
    "types": (),
    "texts": (),  # that images are compared with
}

# Axes that promise to cut everything; `pipe` promises layers alone, `expert` experts, `data` and `seq` no parameters.
CUTTING = ("fsdp", "tensor")
_ROWS = ("data", "fsdp", "expert")  # where a batch comes in, and where a microbatch lies within a stage
_OF_ROWS = ("batch", "expert_batch")
_WITH_LENGTH = ("decoder_", "encoder_", "text_")  # what features of tokens are called
STAGE_RULES: Rules = {**ACTIVATION_RULES, "batch": _ROWS, "expert_batch": ("data", "fsdp")}


def partition(axes: tuple[str, ...], shape: tuple[int, ...], rules: Rules, mesh: Mesh, what: str) -> PartitionSpec:
    """Resolves the named dimensions of one array, called `what`, by mesh axes above size 1: what is really cut. Raises
    UserError: a name that the rules lack, or a size that its mesh axes do not divide."""
    entries: list[tuple[str, ...] | str | None] = []
    for name, size in zip(axes, shape, strict=True):
        if name not in rules:
            raise unknown_name(f"{what}: logical axis", name, rules)
        over = _cutting(mesh, rules[name])
        parts = _parts(mesh, over)
        if size % parts:
            raise UserError(
                f"{what}: {name}={size} does not divide over mesh axes {' x '.join(over)}={parts}; accepted: a "
                f"multiple of {parts} (nearest {max(1, round(size / parts)) * parts}), or a mesh that divides {size}"
            )
        entries.append(over[0] if len(over) == 1 else over or None)
    return PartitionSpec(*entries)


def _cutting(mesh: Mesh, axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(axis for axis in axes if mesh.shape[axis] > 1)


def _parts(mesh: Mesh, axes: Sequence[str]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


@dataclass(frozen=True)
class MeshLayout:
    """A mesh with its rules of activations: where parameters and activations lie."""

    mesh: Mesh
    rules: Rules = dataclasses.field(default_factory=lambda: ACTIVATION_RULES, hash=False)

    @property
    def in_stage(self) -> "MeshLayout":
        """The layout within a stage of a pipeline, whose microbatches are not cut over `pipe`."""
        return self._without("pipe")

    @property
    def in_group(self) -> "MeshLayout":
        """The layout of the rows of one group of devices along `data`."""
        return self._without("data")

    @property
    def groups(self) -> int:
        """How many groups of devices `data` has."""
        return self.mesh.shape["data"] if "data" in self.rules["batch"] else 1

    def pin_groups(self, x: jax.Array, spec: PartitionSpec | None = None) -> jax.Array:
        """Pins a first dimension of one entry for every group; the others lie as `spec` says, or free."""
        return self._pin_first(x, "data", spec)

    def _without(self, axis: str) -> "MeshLayout":
        rows = {name: tuple(each for each in self.rules[name] if each != axis) for name in _OF_ROWS}
        return dataclasses.replace(self, rules={**self.rules, **rows})

    def activation(self, axes: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Resolves an activation's named dimensions, e.g. "batch length embed". A length that the mesh does not divide,
        of a prompt or a decoding step, stays whole; what is trained on is checked by `check_length`."""
        names = tuple(axes.split())
        sizes = zip(names, shape, strict=True)
        names = tuple("kv_length" if n == "length" and size % self.length_parts else n for n, size in sizes)
        return partition(names, shape, self.rules, self.mesh, f"an activation [{axes}]")

    @property
    def in_part(self) -> "MeshLayout":
        """The layout within what one device has of batch and length, where neither is cut any further."""
        return dataclasses.replace(self, rules={**self.rules, "batch": (), "length": ()})

    def pin_parts(self, x: jax.Array) -> jax.Array:
        """Pins a first dimension of one entry for every part of batch and length; the compiler places the others."""
        return self._pin_first(x, (*self.mesh_axes("batch"), *self.mesh_axes("length")))

    def _pin_first(self, x: jax.Array, axes: str | tuple[str, ...], others: PartitionSpec | None = None) -> jax.Array:
        rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1) if others is None else others
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(axes, *rest)))

    def mesh_axes(self, name: str) -> tuple[str, ...]:
        """The mesh axes above size 1 over which an activation's dimension is cut, for `on_every_device`."""
        return _cutting(self.mesh, self.rules[name])

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins an activation by the logical names of its dimensions, e.g. "batch length embed"."""
        if self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, self.activation(axes, x.shape)))

    def on_every_device(
        self, function: Callable[..., jax.Array], in_axes: Sequence[str], out_axes: str
    ) -> Callable[..., jax.Array]:
        """Runs a function of activations on every device's part of them: what the compiler cannot partition itself. By
        the logical names of each argument's and of the result's dimensions; a name has one size."""
        if self.mesh.size == 1:
            return function

        def call(*arrays: jax.Array) -> jax.Array:
            sizes: dict[str, int] = {}

            def spec(axes: str) -> PartitionSpec:
                return self.activation(axes, tuple(sizes[name] for name in axes.split()))

            for array, axes in zip(arrays, in_axes, strict=True):
                sizes |= dict(zip(axes.split(), array.shape, strict=True))
            specs = tuple(spec(axes) for axes in in_axes)
            # What a kernel writes carries no record of how it varies over the mesh, so there is nothing to check.
            mapped = jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=spec(out_axes), check_vma=False)
            return mapped(*arrays)

        return call

    def parameters(self, specs: Params) -> Params:
        """Returns the tree of NamedSharding for a tree of ParamSpec."""

        def place(path: tuple[Any, ...], spec: ParamSpec) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return NamedSharding(self.mesh, partition(spec.axes, spec.shape, PARAMETER_RULES, self.mesh, name))

        return jax.tree_util.tree_map_with_path(place, specs, is_leaf=lambda node: isinstance(node, ParamSpec))

    @property
    def platform(self) -> str:
        """The kind of device, "cpu", "gpu" or "tpu": not that of this process when a program is compiled for others."""
        return str(self.mesh.devices.flat[0].platform)

    @property
    def batch_parts(self) -> int:
        """In how many parts the mesh cuts a batch."""
        return _parts(self.mesh, self.rules["batch"])

    @property
    def length_parts(self) -> int:
        """In how many parts the mesh cuts a sequence."""
        return _parts(self.mesh, self.rules["length"])

    @property
    def ring(self) -> Callable[..., jax.Array]:
        """Attention over a length that the mesh cuts: `parallel.ring.ring_attention` on it."""
        return partial(ring_attention, mesh=self.mesh, place=self.activation)

    def features(self, batch: Mapping[str, Any], leading: int = 0) -> dict[str, NamedSharding]:
        """Returns the shardings of a batch's features, anything with a shape: `leading` other dimensions, then rows; of
        tokens, named after who reads them, then their length."""

        def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
            rows = self.batch(leading)
            if not name.startswith(_WITH_LENGTH) or len(shape) < leading + 2 or shape[leading + 1] % self.length_parts:
                return rows
            return NamedSharding(self.mesh, PartitionSpec(*rows.spec, self.mesh_axes("length") or None))

        return {name: place(name, tuple(value.shape)) for name, value in batch.items()}

    def batch(self, leading: int = 0) -> NamedSharding:
        """Returns the sharding of a batch array whose batch dimension follows `leading` others."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * leading, _cutting(self.mesh, _ROWS) or None))

    def check_batch(self, batch_size: int, microbatches: int) -> None:
        """Refuses a batch that does not divide into microbatches, and those over the mesh."""
        parts = microbatches * _parts(self.mesh, _ROWS)
        if batch_size % parts:
            cut = [f"{microbatches} microbatches"] if microbatches > 1 else []
            cut += [f"mesh axis {axis}" for axis in _cutting(self.mesh, _ROWS)]
            raise UserError(
                f"training.batch_size: {batch_size} does not divide over {' x '.join(cut)}: {parts} parts; accepted: a "
                f"multiple of {parts} (nearest {max(1, round(batch_size / parts)) * parts})"
            )

    def check_length(self, length: int, what: str) -> None:
        """Refuses a length of training sequences that the mesh does not divide."""
        partition(("length",), (length,), STAGE_RULES, self.mesh, what)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())


def check_cut(layout: MeshLayout, specs: Params, most: float) -> None:
    """Refuses a mesh with fsdp or tensor that leaves more than a share `most` of the parameters' elements uncut: every
    device would hold those whole, with their moments. Raises UserError: the share, and the largest such parameter."""
    if all(layout.mesh.shape[axis] == 1 for axis in CUTTING):
        return
    named = zip(named_specs(specs).items(), jax.tree.leaves(layout.parameters(specs)), strict=True)
    sizes = {name: (math.prod(spec.shape), any(at.spec)) for (name, spec), at in named}
    whole = {name: size for name, (size, cut) in sizes.items() if not cut}
    share = sum(whole.values()) / sum(size for size, _ in sizes.values())
    if share > most:
        largest = max(whole, key=lambda name: whole[name])
        raise UserError(
            f"mesh: {share:.1%} of the parameters are cut over no axis, most of them {largest} ({whole[largest]:,} "
            f"elements); accepted: at most mesh.max_uncut={most:g}, which can be raised for a small model"
        )
