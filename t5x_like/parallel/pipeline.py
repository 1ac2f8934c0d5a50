# SPDX-License-Identifier: Apache-2.0
"""Pipeline parallelism: a stack of layers cut into stages, microbatches passed from stage to stage.

S stages (the mesh's `pipe` axis), M microbatches, R rounds. With one round stage s holds layers [s L/S, (s+1) L/S):
GPipe (Huang et al. 2019). With R rounds the layers are cut into R S groups, stage s holds groups s, S + s, 2 S + s and
so on, and every microbatch goes round R times: the circular schedule (Narayanan et al. 2021, section 2.2, calls the
groups model chunks). A tick is the time of one group on one microbatch. S = 3, M = 4, what each stage works at:

    R = 1   tick      0  1  2  3  4  5             R = 2   0  1  2  3  4  5  6  7  8  9
            stage 0   0  1  2  3  .  .                     0  1  2  3  0' 1' 2' 3' .  .
            stage 1   .  0  1  2  3  .                     .  0  1  2  3  0' 1' 2' 3' .
            stage 2   .  .  0  1  2  3                     .  .  0  1  2  3  0' 1' 2' 3'

At tick t stage s works at microbatch (t - s) mod M in round (t - s) div M, where 0 <= t - s < R M; the other slots are
the bubble: S - 1 of R M + S - 1 ticks. A slot of the bubble computes on some real microbatch, whose result nobody
takes: no gradient flows into it, and nothing in it can turn into a NaN, as zeros do in a norm.

The program is one scan over ticks. All stages compute at once, as one `vmap` whose dimension lies on `pipe`; then every
result moves one stage on, and what leaves the last one lands on the belt beside stage 0, in the slot where its
microbatch lay at first. So the belt feeds every round, and at the end holds the results. For the backward pass only
what enters a stage is kept; the stage is computed anew. Embeddings, logits and the loss are outside: there the devices
of `pipe` share the batch. The microbatches are those of gradient accumulation.

What moves, in bytes sent by a device forward, for activations of A bytes a microbatch, the other axes' share taken:
(R M + S - 1) A from stage to stage; (S - 1)/S M A onto the belt, and as much off it. Backward the same again. With
M > S and axes that cut the rows of a microbatch (`fsdp`, `expert`), rows change places over those before and after.

Differs from Narayanan et al.: all forward ticks come before all backward ones, as autodiff of a scan has it, so what
enters the stages is kept for all M microbatches, where 1F1B keeps it for S.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from t5x_like.config.checks import divisors
from t5x_like.errors import UserError
from t5x_like.parallel.rules import MeshLayout

Aux = dict[str, jax.Array]
# stage(layers [n, ...], x [b, T, D], the microbatch's number, the number of its first layer) -> (x, aux)
Stage = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Aux]]


@dataclass(frozen=True)
class Pipeline:
    """A schedule of R rounds and M microbatches on the mesh of `layout`."""

    layout: MeshLayout
    rounds: int
    microbatches: int

    @property
    def stages(self) -> int:
        """S."""
        return self.layout.mesh.shape["pipe"]

    def on(self, layout: MeshLayout) -> "Pipeline":
        """The same schedule where rows lie otherwise."""
        return dataclasses.replace(self, layout=layout)

    @property
    def ticks(self) -> int:
        return self.rounds * self.microbatches + self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the ticks in which a stage has nothing to do."""
        return (self.stages - 1) / self.ticks

    def check(self, layers: int) -> None:
        """Raises UserError for what cannot be cut: `layers` repeats of the stack's pattern, M microbatches."""
        groups = self.stages * self.rounds
        if layers % groups:
            rounds = f" x execution.pipeline_rounds={self.rounds}" if self.rounds > 1 else ""
            raise UserError(
                f"mesh.pipe: {self.stages} stages{rounds} do not divide the {layers} repeats of the model's layers; "
                f"accepted: {divisors(layers)}"
            )
        if self.microbatches % self.stages:
            raise UserError(
                f"training.microbatches: {self.microbatches} is not a multiple of mesh.pipe={self.stages}; nearest: "
                f"{max(1, round(self.microbatches / self.stages)) * self.stages}"
            )

    def order(self, layers: int) -> np.ndarray:
        """Which layer stands where in memory, int [layers]: those of a stage side by side; on disk they count up."""
        by_group = np.arange(layers).reshape(self.rounds, self.stages, -1)
        return by_group.swapaxes(0, 1).reshape(-1)

    def run(self, stage: Stage, layers: Any, x: jax.Array) -> tuple[jax.Array, Aux]:
        """Runs the rows of M microbatches through all layers.

        Args:
          stage: runs the layers of one group; called with traced numbers, under `vmap`.
          layers: a tree of [layers, ...], in the `order` of memory.
          x: [M b, T, D], microbatch after microbatch.

        Returns:
          x after the last layer, and the sums over layers of what `stage` returns besides, [M] each.
        """
        stages, rounds, microbatches = self.stages, self.rounds, self.microbatches
        grouped = jax.tree.map(lambda leaf: leaf.reshape(stages, rounds, -1, *leaf.shape[1:]), layers)
        in_group = jax.tree.leaves(grouped)[0].shape[2]
        numbers = jnp.arange(stages)
        first = (numbers == 0)[:, None, None, None]

        @partial(jax.checkpoint, prevent_cse=False)  # in a scan there is nothing to share
        def work(layers: Any, x: jax.Array, number: jax.Array, tick: jax.Array) -> tuple[jax.Array, Aux]:
            turn = tick - number
            taken = jnp.clip(turn // microbatches, 0, rounds - 1)
            group = jax.tree.map(lambda leaf: leaf[0] if rounds == 1 else leaf[taken], layers)
            x, aux = stage(group, x, turn % microbatches, (taken * stages + number) * in_group)
            real = (turn >= 0) & (turn < rounds * microbatches)
            return x, jax.tree.map(lambda value: jnp.where(real, value, 0.0), aux)

        at_once = jax.vmap(work, (0, 0, 0, None), spmd_axis_name="pipe")

        def tick(carry: Any, now: jax.Array) -> Any:
            belt, moved = carry
            entering = jnp.where(first, belt[:, now % microbatches], moved)
            leaving, aux = at_once(grouped, entering, numbers, now)
            moved = self._pass_on(leaving)
            slot = (now - stages + 1) % microbatches
            kept = jnp.where(now >= stages - 1, moved, belt[:, slot])
            return (belt.at[:, slot].set(kept), moved), aux

        belt = self._onto_belt(x.reshape(microbatches, -1, *x.shape[1:]))
        (belt, _), aux = jax.lax.scan(tick, (belt, belt[:, 0]), jnp.arange(self.ticks))
        whose = (jnp.arange(self.ticks)[:, None] - numbers) % microbatches
        aux = jax.tree.map(lambda value: jnp.zeros(microbatches, value.dtype).at[whose].add(value), aux)
        return self._off_belt(belt).reshape(x.shape), aux

    def _pass_on(self, x: jax.Array) -> jax.Array:
        """[S, b, T, D]: what stage s has goes to stage s + 1, the last one's to stage 0."""
        ring = [(i, (i + 1) % self.stages) for i in range(self.stages)]
        spec = self._spec("stage batch length embed", x.shape)
        return self._island(lambda x: jax.lax.ppermute(x, "pipe", ring), spec, spec)(x)

    def _onto_belt(self, x: jax.Array) -> jax.Array:
        """[M, b, T, D] with M on `pipe` to [S, M, b, T, D]: all microbatches beside every stage."""
        apart = self._spec("stage batch length embed", x.shape)
        together = self._spec("stage microbatch batch length embed", (self.stages, *x.shape))
        return self._island(lambda x: jax.lax.all_gather(x, "pipe", tiled=True)[None], apart, together)(x)

    def _off_belt(self, belt: jax.Array) -> jax.Array:
        """[S, M, b, T, D] to [M, b, T, D] with M on `pipe`: what lies beside stage 0."""

        def share(belt: jax.Array) -> jax.Array:
            mine = jnp.where(jax.lax.axis_index("pipe") == 0, belt[0], jnp.zeros_like(belt[0]))
            return jax.lax.psum_scatter(mine, "pipe", tiled=True)

        together = self._spec("stage microbatch batch length embed", belt.shape)
        apart = self._spec("stage batch length embed", belt.shape[1:])
        return self._island(share, together, apart)(belt)

    def _spec(self, axes: str, shape: tuple[int, ...]) -> PartitionSpec:
        return self.layout.in_stage.activation(axes, shape)

    def _island(self, function: Callable[..., Any], before: PartitionSpec, after: PartitionSpec) -> Callable[..., Any]:
        return jax.shard_map(function, mesh=self.layout.mesh, in_specs=before, out_specs=after)
