# SPDX-License-Identifier: Apache-2.0
"""What a block is told beside its input and its parameters."""

from collections.abc import Callable, Sequence
from typing import Protocol

import flax.struct
import jax

from t5x_like.precision import Policy


class Layout(Protocol):
    """Where activations lie. `parallel.rules.MeshLayout` implements it; a model knows only this."""

    @property
    def batch_parts(self) -> int: ...

    @property
    def platform(self) -> str: ...

    def constrain(self, x: jax.Array, axes: str) -> jax.Array: ...

    def on_every_device(
        self, function: Callable[..., jax.Array], in_axes: Sequence[str], out_axes: str
    ) -> Callable[..., jax.Array]: ...


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
      train: whether dropout acts and blocks are rematerialised.
      scan_layers: scan over stacked layers, or unroll them; the same numbers either way.
      remat: "none", or "full" to keep only each block's input for the backward pass.
      attention: which implementation `attend` takes; "auto" chooses by length and device.
      one_cpu: whether the program is for a single CPU device, for which `layers/cpu.py` writes some things differently.
      positions: int [B, T].
      mask: see `MaskSpec`.
      key: randomness of this call, folded per layer; None when nothing is random.
    """

    policy: Policy = flax.struct.field(pytree_node=False, default=Policy())
    layout: Layout | None = flax.struct.field(pytree_node=False, default=None)
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

    def constrain(self, x: jax.Array, axes: str) -> jax.Array:
        """Pins `x` to the mesh by the logical names of its dimensions, e.g. "batch length embed"."""
        return x if self.layout is None else self.layout.constrain(x, axes)
