# SPDX-License-Identifier: Apache-2.0
"""What a block is told beside its input and its parameters."""

from collections.abc import Callable, Sequence
from functools import partial
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
    def groups(self) -> int: ...
    @property
    def platform(self) -> str: ...
    @property
    def in_stage(self) -> "Layout": ...
    @property
    def in_part(self) -> "Layout": ...
    @property
    def in_group(self) -> "Layout": ...
    @property
    def ring(self) -> Callable[..., jax.Array]: ...
    def pin_groups(self, x: jax.Array, spec: Any = None) -> jax.Array: ...
    def pin_parts(self, x: jax.Array) -> jax.Array: ...
    def mesh_axes(self, name: str) -> tuple[str, ...]: ...
    def constrain(self, x: jax.Array, axes: str) -> jax.Array: ...
    def on_every_device(
        self, function: Callable[..., jax.Array], in_axes: Sequence[str], out_axes: str
    ) -> Callable[..., jax.Array]: ...


class Schedule(Protocol):
    """How the layers of a stack are worked off by the stages of a pipeline. `parallel.pipeline.Pipeline` is one."""

    @property
    def microbatches(self) -> int: ...
    def on(self, layout: Any) -> "Schedule": ...
    def run(self, stage: Any, layers: Any, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]: ...


def platform_of(layout: Layout | None, one_cpu: bool) -> str:
    """The kind of device that a program is for."""
    if one_cpu:
        return "cpu"
    return jax.default_backend() if layout is None else layout.platform


_static = partial(flax.struct.field, pytree_node=False)


class Marks(flax.struct.PyTreeNode):
    """What a mask reads of every token of a sequence, [B, length] each; None where there is nothing to read."""

    segments: jax.Array | None = None  # int, of packed documents; a query sees keys of its own. 0: padding; None: one
    # bool, tokens that their whole segment may look at, those before them too: a prefix language model's inputs (Raffel
    # et al. 2020, section 3.2.1).
    prefix: jax.Array | None = None
    everywhere: jax.Array | None = None  # bool, see and are seen whatever the window (Beltagy et al. 2020)
    index: jax.Array | None = None  # int, places for causality, windows and biases, if not those in the array
    shared: jax.Array | None = None  # bool, tokens that every segment sees, as those of a trained prompt


class MaskSpec(flax.struct.PyTreeNode):
    """Who attends to whom, described rather than spelt out as a [T, S] matrix.

    A query attends to a key when all conditions hold: the key's index is not above the query's (`causal`; a key of the
    prefix may be), it is one of `window` keys on each side that are `dilation` apart (a token that is `everywhere`, on
    either end, needs no window), and their segments agree.
    """

    causal: bool = _static(default=True)  # by index, not by position; bidirectional without
    window: int | None = _static(default=None)  # keys, the query's own among them, back and, unless causal, ahead
    dilation: int = _static(default=1)  # indices from one key of the window to the next
    q: Marks = Marks()  # of the queries; of one sequence with itself the same arrays as of the keys
    kv: Marks = Marks()
    offset: jax.Array | int = 0  # scalar index of the first query among the keys; not 0 when decoding through a cache
    # bool [B, T, S], a further condition, spelt out: when beams share a cache, which slots hold a hypothesis.
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
    """What cross-attention looks at: the output of another stream's stack."""

    values: jax.Array | None  # [B, S, D]; None once keys and values made of it are in a cache
    marks: Marks = Marks()
    seen: jax.Array | None = None  # int [B, T], the segment of it that each query sees; None: that of its own number


class Context(flax.struct.PyTreeNode):
    """Execution (static), and of the stream that a stack is running, the arrays that all its blocks share."""

    policy: Policy = _static(default=Policy())
    layout: Layout | None = _static(default=None)  # of activations on a mesh; None leaves it to the compiler
    pipeline: Schedule | None = _static(default=None)  # a batch is then several microbatches, one after the other
    train: bool = _static(default=False)  # whether dropout acts and blocks are rematerialised
    scan_layers: bool = _static(default=True)  # or unroll them; the same numbers either way
    layers_per_scan: int = _static(default=1)  # repeats of a pattern that a scan unrolls at a time
    device_memory: float | None = _static(default=None)  # bytes, where they decide what is computed at once: of a GPU
    remat: str = _static(default="none")  # what blocks keep for the backward pass, of `remat.POLICIES`
    attention: str = _static(default="auto")  # the implementation that `attend` takes
    # Whether the program is for a single CPU device (or, when it generates, for the cores of one); see `layers/cpu.py`.
    one_cpu: bool = _static(default=False)
    weights: bool = _static(default=False)  # whether attention returns its weights, too
    positions: jax.Array | None = None  # int [B, T]
    mask: MaskSpec = MaskSpec()
    memory: Memory | None = None  # what cross-attention looks at
    bias: Any = None  # of self-attention's logits in every layer, see `layers/biases.py`
    shared: Any = None  # parameters that all layers have in common, for kinds of attention with such
    kv_positions: jax.Array | None = None  # int [B, S], of a cache's slots, where something asks for them
    key: jax.Array | None = None  # randomness, folded per layer, or a key [B] for each row; None: nothing is random

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
