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
        bias: Any,
        soft_cap: float | None,
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


def platform_of(layout: Layout | None, one_cpu: bool) -> str:
    """The kind of device that a program is for."""
    if one_cpu:
        return "cpu"
    return jax.default_backend() if layout is None else layout.platform


class Marks(flax.struct.PyTreeNode):
    """What a mask reads of every token of a sequence, [B, length] each; None where there is nothing to read.

    Attributes:
      segments: int, a number for each packed document; a query sees keys of its own segment. 0 is padding. None: one
        segment.
      prefix: bool, tokens that their whole segment may look at, those before them too: a prefix language model's
        inputs (Raffel et al. 2020, section 3.2.1).
      everywhere: bool, global tokens (Beltagy et al. 2020): whatever the window, they see and are seen.
      shared: bool, tokens that every segment sees, as those of a trained prompt.
      index: int, where a token stands, for causality, windows and biases, if that is not its place in the array.
    """

    segments: jax.Array | None = None
    prefix: jax.Array | None = None
    everywhere: jax.Array | None = None
    index: jax.Array | None = None
    shared: jax.Array | None = None


class MaskSpec(flax.struct.PyTreeNode):
    """Who attends to whom, described rather than spelt out as a [T, S] matrix.

    A query attends to a key when all conditions hold: the key's index is not above the query's (`causal`; a key of the
    prefix may be), it is one of `window` keys on each side that are `dilation` apart (a token that is `everywhere`, on
    either end, needs no window), and their segments agree.

    Attributes:
      causal: whether causality holds; it goes by index, not by position. Bidirectional without.
      window: number of keys, the query's own among them, that a query may look back on; as many ahead without
        causality. None: all.
      dilation: indices from one key of the window to the next.
      q, kv: of the queries and of the keys. Of one sequence with itself they hold the same arrays.
      offset: index of the first query among the keys (a scalar; not 0 when decoding through a cache).
      allowed: bool [B, T, S], a further condition, spelt out: when beams share a cache, which slots hold a hypothesis.
    """

    causal: bool = flax.struct.field(pytree_node=False, default=True)
    window: int | None = flax.struct.field(pytree_node=False, default=None)
    dilation: int = flax.struct.field(pytree_node=False, default=1)
    q: Marks = Marks()
    kv: Marks = Marks()
    offset: jax.Array | int = 0
    allowed: jax.Array | None = None

    @property
    def looks_ahead(self) -> bool:
        """Whether a query may look at keys after it in the array."""
        return not self.causal or self.kv.prefix is not None or self.reordered

    @property
    def reordered(self) -> bool:
        """Whether tokens stand elsewhere than in their places of the array."""
        return self.q.index is not None or self.kv.index is not None

    @property
    def reach(self) -> int | None:
        """Within how many indices of a query, its own among them, all its keys lie; None for any number."""
        anywhere = self.q.everywhere is not None or self.kv.everywhere is not None or self.reordered
        if self.window is None or anywhere:
            return None
        return (self.window - 1) * self.dilation + 1


class Memory(flax.struct.PyTreeNode):
    """What cross-attention looks at: the output of another stream's stack.

    Attributes:
      values: [B, S, D]; None once keys and values made of it are in a cache.
      marks: of its tokens.
      seen: int [B, T], the segment of it that each query sees; None: that of the query's own number.
    """

    values: jax.Array | None
    marks: Marks = Marks()
    seen: jax.Array | None = None


class Context(flax.struct.PyTreeNode):
    """Execution (static), and of the stream that a stack is running, the arrays that all its blocks share.

    Attributes:
      policy: dtypes.
      layout: placement of activations on a mesh; None leaves it to the compiler.
      pipeline: of a mesh with stages: then a batch is several microbatches, one after the other.
      train: whether dropout acts and blocks are rematerialised.
      scan_layers: scan over stacked layers, or unroll them; the same numbers either way.
      remat: what blocks keep for the backward pass, by a name of `remat.POLICIES`.
      attention: which implementation `attend` takes; "auto" chooses by length and device.
      layers_per_scan: how many repeats of a pattern a scan unrolls at a time.
      device_memory: bytes, where they decide what is computed at once: of a GPU.
      one_cpu: whether the program is for a single CPU device (or, when it generates, for the cores of one), for which
        `layers/cpu.py` writes some things differently.
      weights: whether attention returns its weights, too.
      positions: int [B, T].
      mask: see `MaskSpec`.
      memory: what cross-attention looks at; None in a stack without.
      bias: added to the logits of self-attention in every layer, see `layers/biases.py`; None adds nothing.
      shared: parameters that all layers have in common, for kinds of attention with such.
      kv_positions: int [B, S], positions of the slots of a cache; None where there is none, or nothing asks for them.
      key: randomness of this call, folded per layer, or a key [B] for each row; None when nothing is random.
    """

    policy: Policy = flax.struct.field(pytree_node=False, default=Policy())
    layout: Layout | None = flax.struct.field(pytree_node=False, default=None)
    pipeline: Schedule | None = flax.struct.field(pytree_node=False, default=None)
    train: bool = flax.struct.field(pytree_node=False, default=False)
    scan_layers: bool = flax.struct.field(pytree_node=False, default=True)
    layers_per_scan: int = flax.struct.field(pytree_node=False, default=1)
    device_memory: float | None = flax.struct.field(pytree_node=False, default=None)
    remat: str = flax.struct.field(pytree_node=False, default="none")
    attention: str = flax.struct.field(pytree_node=False, default="auto")
    one_cpu: bool = flax.struct.field(pytree_node=False, default=False)
    weights: bool = flax.struct.field(pytree_node=False, default=False)
    positions: jax.Array | None = None
    mask: MaskSpec = MaskSpec()
    memory: Memory | None = None
    bias: Any = None
    shared: Any = None
    kv_positions: jax.Array | None = None
    key: jax.Array | None = None

    @property
    def platform(self) -> str:
        """The kind of device that the program is for."""
        return platform_of(self.layout, self.one_cpu)

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
            axes = "microbatch batch length embed" if rows.ndim == 3 else "microbatch batch length"
            return layout.constrain(rows.reshape(parts, -1, *rows.shape[1:]), axes)

        key = None if self.key is None else self.key.reshape(parts, -1)
        return self._with_rows(apart, key).replace(layout=layout, pipeline=None)

    def of_microbatch(self, number: jax.Array) -> "Context":
        """What a stage is told when it works at one microbatch, out of `in_stages`."""
        return self._with_rows(lambda rows: rows[number], None if self.key is None else self.key[number])

    def _with_rows(self, change: Callable[[jax.Array], jax.Array], key: jax.Array | None) -> "Context":
        """Changes every array that has a row for each of the batch; what is one array stays one."""
        changed: dict[int, jax.Array] = {}

        def once(rows: jax.Array) -> jax.Array:
            if id(rows) not in changed:
                changed[id(rows)] = change(rows)
            return changed[id(rows)]

        rows = (self.positions, self.mask.q, self.mask.kv, self.memory)
        positions, q, kv, memory = jax.tree.map(once, rows)
        return self.replace(positions=positions, mask=self.mask.replace(q=q, kv=kv), memory=memory, key=key)

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins `x` to the mesh by the logical names of its dimensions, e.g. "batch length embed"."""
        return x if self.layout is None else self.layout.constrain(x, axes)
