# SPDX-License-Identifier: Apache-2.0
"""What a block is told beside its input and its parameters."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import flax.struct
import jax

from t5x_like.precision import Policy


class Layout(Protocol):
    """Where activations lie. `parallel.rules.MeshLayout` implements it; a model knows only this."""

    @property
    def batch_parts(self) -> int: ...

    @property
    def length_parts(self) -> int: ...

    @property
    def platform(self) -> str: ...

    @property
    def in_stage(self) -> "Layout": ...

    @property
    def in_part(self) -> "Layout": ...

    @property
    def in_group(self) -> "Layout": ...

    @property
    def groups(self) -> int: ...

    def pin_groups(self, x: jax.Array, spec: Any = None) -> jax.Array: ...

    def mesh_axes(self, name: str) -> tuple[str, ...]: ...

    def pin_parts(self, x: jax.Array) -> jax.Array: ...

    def constrain(self, x: jax.Array, axes: str) -> jax.Array: ...

    def on_every_device(
        self, function: Callable[..., jax.Array], in_axes: Sequence[str], out_axes: str
    ) -> Callable[..., jax.Array]: ...

    def ring(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        mask: "MaskSpec",
        bias: jax.Array | None,
        wide: Any,
        blocks: Any,
    ) -> jax.Array: ...


class Schedule(Protocol):
    """How the layers of a stack are worked off by the stages of a pipeline. `parallel.pipeline.Pipeline` is one."""

    @property
    def microbatches(self) -> int: ...

    def on(self, layout: Any) -> "Schedule": ...

    def run(
        self, stage: Callable[..., tuple[jax.Array, dict[str, jax.Array]]], layers: Any, x: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]: ...


class MaskSpec(flax.struct.PyTreeNode):
    """Who attends to whom, described rather than spelt out as a [T, S] matrix.

    A query attends to a key when all conditions hold: the key's index is not above the query's (`causal`), it is fewer
    than `window` indices behind, and their segment ids agree.

    Attributes:
      causal: whether causality holds; it goes by index, not by position.
      window: number of keys, the query's own among them, that a query may look back on; None for all.
      q_segments, kv_segments: int [B, T] and [B, S]; None means one segment everywhere.
      offset: index of the first query among the keys (a scalar; not 0 when decoding through a cache).
      allowed: bool [B, T, S], a further condition, spelt out: when beams share a cache, which slots hold a hypothesis.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=True)
    window: int | None = flax.struct.field(pytree_node=False, default=None)
    q_segments: jax.Array | None = None
    kv_segments: jax.Array | None = None
    offset: jax.Array | int = 0
    allowed: jax.Array | None = None


class Context(flax.struct.PyTreeNode):
    """Execution (static) and the arrays that every block of a stack shares.

    Attributes:
      policy: dtypes.
      layout: placement of activations on a mesh; None leaves it to the compiler.
      pipeline: of a mesh with stages: then a batch is several microbatches, one after the other.
      train: whether dropout acts and blocks are rematerialised.
      scan_layers: scan over stacked layers, or unroll them; the same numbers either way.
      remat: what blocks keep for the backward pass, by a name of `remat.POLICIES`.
      attention: which implementation `attend` takes; "auto" chooses by length and device.
      one_cpu: whether the program is for a single CPU device (or, when it generates, for the cores of one), for which
        `layers/cpu.py` writes some things differently.
      positions: int [B, T].
      mask: see `MaskSpec`.
      key: randomness of this call, folded per layer, or a key [B] for each row; None when nothing is random.
    """

    policy: Policy = flax.struct.field(pytree_node=False, default=Policy())
    layout: Layout | None = flax.struct.field(pytree_node=False, default=None)
    pipeline: Schedule | None = flax.struct.field(pytree_node=False, default=None)
    train: bool = flax.struct.field(pytree_node=False, default=False)
    scan_layers: bool = flax.struct.field(pytree_node=False, default=True)
    remat: str = flax.struct.field(pytree_node=False, default="none")
    attention: str = flax.struct.field(pytree_node=False, default="auto")
    one_cpu: bool = flax.struct.field(pytree_node=False, default=False)
    positions: jax.Array | None = None
    mask: MaskSpec = MaskSpec()
    key: jax.Array | None = None

    @property
    def batch_parts(self) -> int:
        """In how many parts the mesh cuts a batch."""
        return 1 if self.layout is None else self.layout.batch_parts

    @property
    def length_parts(self) -> int:
        """In how many parts the mesh cuts a sequence."""
        return 1 if self.layout is None else self.layout.length_parts

    def folded(self, number: jax.Array | int) -> jax.Array | None:
        """The key, or every row's key, folded with a number; None when nothing is random."""
        fold = jax.random.fold_in
        return None if self.key is None else (jax.vmap(fold, (0, None)) if self.key.ndim else fold)(self.key, number)

    def in_group(self) -> "Context":
        """What is told to the rows of one group of devices along `data`."""
        assert self.layout is not None
        layout = self.layout.in_group
        return self.replace(layout=layout, pipeline=None if self.pipeline is None else self.pipeline.on(layout))

    def in_stages(self) -> "Context":
        """What all stages of the pipeline are told: arrays of rows, [M b, T], become [M, b, T]."""
        assert self.pipeline is not None and self.layout is not None
        parts, layout = self.pipeline.microbatches, self.layout.in_stage

        def apart(rows: jax.Array) -> jax.Array:
            return layout.constrain(rows.reshape(parts, -1, *rows.shape[1:]), "microbatch batch length")

        key = None if self.key is None else self.key.reshape(parts, -1)
        return self._with_rows(apart, key).replace(layout=layout, pipeline=None)

    def of_microbatch(self, number: jax.Array) -> "Context":
        """What a stage is told when it works at one microbatch, out of `in_stages`."""
        return self._with_rows(lambda rows: rows[number], None if self.key is None else self.key[number])

    def _with_rows(self, change: Callable[[jax.Array], jax.Array], key: jax.Array | None) -> "Context":
        def changed(rows: jax.Array | None) -> jax.Array | None:
            return None if rows is None else change(rows)

        q, kv = self.mask.q_segments, self.mask.kv_segments
        segments = changed(q)
        mask = self.mask.replace(q_segments=segments, kv_segments=segments if kv is q else changed(kv))
        return self.replace(positions=changed(self.positions), mask=mask, key=key)

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins `x` to the mesh by the logical names of its dimensions, e.g. "batch length embed"."""
        return x if self.layout is None else self.layout.constrain(x, axes)
