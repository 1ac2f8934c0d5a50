# SPDX-License-Identifier: Apache-2.0
"""K training steps in one compiled call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.model import Model
from t5x_like.objectives.task import Batch, Sums, Task
from t5x_like.training.state import State, merge

StepFunction = Callable[[State, Batch, dict[str, jax.Array]], tuple[State, Sums]]


def make_step(
    model: Model,
    objective: Task,
    optimizer: optax.GradientTransformation,
    ctx: Context,
    microbatches: int = 1,
) -> StepFunction:
    """Returns step(state, batches_K, knobs_K) -> (state, sums), to be jitted with `state` donated.

    batches_K: batches stacked along a leading dimension K, each [K, B, ...].
    knobs_K: what changes from run to run without another compile: `learning_rate` float32 [K], `count` int32 (the first
      `count` of the K batches are used), `key` (of the run; folded with the step and the microbatch).
    sums: {name: (float32 [K], float32 [K])}: sums and weights of the objective, and the norms of the gradient before
      clipping and of the parameters before the step, each with weight 1.

    Raises:
      UserError: microbatches of an objective whose loss is not a sum over examples.
    """
    if microbatches > 1 and not objective.separable:
        raise UserError(
            f"training.microbatches: {microbatches}, but the loss of objective {objective.config.kind} is not a sum "
            "over examples, which could be accumulated; accepted: 1"
        )

    def gradient(state: State, batch: Batch, key: jax.Array) -> tuple[Any, Sums]:
        """The gradient of the mean loss and the sums, accumulated over microbatches, divided once."""

        def loss(trainable: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
            params = merge(state.frozen, trainable)
            sums = objective.loss(model, params, part, key=key, ctx=ctx)
            return sums["loss"][0], sums

        def accumulate(carry: Any, xs: Any) -> tuple[Any, None]:
            part, number = xs
            part_key = jax.random.fold_in(key, number)
            (_, sums), grads = jax.value_and_grad(loss, has_aux=True)(
                state.trainable, objective.prepare(state, part, part_key), part_key
            )
            return jax.tree.map(jnp.add, carry, (grads, sums)), None

        parts = jax.tree.map(lambda x: _split_batch(x, microbatches), batch)
        first = jax.tree.map(lambda x: x[0], parts)
        zero_sums = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: loss(state.trainable, first, key)[1]))
        zero_grads = jax.tree.map(lambda x: jnp.zeros(x.shape, ctx.policy.gradients), state.trainable)
        (grads, sums), _ = jax.lax.scan(
            accumulate, (zero_grads, zero_sums), (parts, jnp.arange(microbatches)), unroll=microbatches == 1
        )
        weight = sums["loss"][1]
        weight = jnp.where(weight > 0, weight, 1.0)  # a batch of nothing but padding moves nothing
        return jax.tree.map(lambda g: g / weight, grads), sums

    def one(state: State, batch: Batch, learning_rate: jax.Array, key: jax.Array) -> tuple[State, Sums]:
        grads, sums = gradient(state, batch, jax.random.fold_in(key, state.step))
        directions, opt = optimizer.update(grads, state.opt, state.trainable)
        moved = jax.tree.map(lambda p, d: p - learning_rate * d, state.trainable, directions)
        norms = {"grad_norm": optax.global_norm(grads), "param_norm": optax.global_norm(state.trainable)}
        sums = {**sums, **{name: (norm, jnp.ones_like(norm)) for name, norm in norms.items()}}
        return state.replace(step=state.step + 1, trainable=moved, opt=opt), sums

    def step(state: State, batches_K: Batch, knobs_K: dict[str, jax.Array]) -> tuple[State, Sums]:
        def body(i: jax.Array, carry: tuple[State, Sums]) -> tuple[State, Sums]:
            state, kept = carry
            batch = jax.tree.map(lambda x: x[i], batches_K)
            state, sums = one(state, batch, knobs_K["learning_rate"][i], knobs_K["key"])
            return state, jax.tree.map(lambda all_, new: all_.at[i].set(new), kept, sums)

        first = jax.tree.map(lambda x: x[0], batches_K)
        shapes = jax.eval_shape(lambda: one(state, first, jnp.float32(0), knobs_K["key"])[1])
        size = knobs_K["learning_rate"].shape[0]
        kept = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), shapes)
        return jax.lax.fori_loop(0, knobs_K["count"], body, (state, kept))

    return step


def _split_batch(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...], each part taking every parts-th row.

    Strided, so that the rows of one device stay on that device.
    """
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
