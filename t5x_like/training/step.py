# SPDX-License-Identifier: Apache-2.0
"""K training steps in one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5x_like.errors import UserError
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.objectives.task import Batch, Sums, Task, objective_of
from t5x_like.precision import LossScaling
from t5x_like.training.layer_statistics import Norms
from t5x_like.training.state import State, merge

StepFunction = Callable[[State, Batch, dict[str, jax.Array]], tuple[State, Sums]]
GradientFunction = Callable[[State, Batch, jax.Array], tuple[Params, Sums]]

# For functions whose shapes are asked for before they are used: tracing a model takes most of a second start's time.
_traced_once = partial(jax.jit, inline=True)


def make_step(
    model: Model,
    objective: Task,
    optimizer: optax.GradientTransformation,
    ctx: Context,
    microbatches: int = 1,
    ema_decay: float | None = None,
    shardings: Any | None = None,
    skip_nonfinite: bool = False,
    by_layer: Norms | None = None,
) -> StepFunction:
    """Returns step(state, batches_K, knobs_K) -> (state, sums), to be jitted with `state` donated.

    batches_K: batches stacked along a leading dimension K, each [K, B, ...].
    knobs_K: what changes from run to run without another compile: `learning_rate` float32 [K], `count` int32 (the first
      `count` of the K batches are used), `key` (of the run; folded with the step and the microbatch).
    sums: {name: (float32 [K], float32 [K])}: sums and weights of the objective, and, each with weight 1, `grad_norm`
      (of the gradient, before clipping), `update_norm` (of what the step added to the parameters, learning rate
      included) and `param_norm` (of the parameters before the step).

    Where the policy scales the loss, a step whose gradient is not finite is skipped: it changes the scale and the count
    of steps, nothing else. The sums then also have `loss_scale` (this step's) and `skipped` (0 or 1), and the norms of
    a skipped step's gradient and update have weight 0.

    Args:
      microbatches: parts of a batch whose gradients are accumulated.
      ema_decay: of `State.average`; None when there is none.
      shardings: where trainable parameters, and so their gradients, lie; None leaves it to the compiler.
      skip_nonfinite: whether a step whose loss or gradient is not finite is skipped without loss scaling too; its sums
        then have weight 0.
      by_layer: norms of a tree like the trainable parameters by layer; then the sums have `grad_norm/LAYER` and so on.

    Raises:
      UserError: microbatches of an objective whose loss is not a sum over examples.
    """
    gradient_of = _gradient(model, objective, ctx, microbatches, shardings)
    scaling, update = ctx.policy.loss_scaling, optax.with_extra_args_support(optimizer).update

    @_traced_once
    def one(state: State, batch: Batch, learning_rate: jax.Array, key: jax.Array) -> tuple[State, Sums]:
        gradient, sums = gradient_of(state, batch, jax.random.fold_in(key, state.step))
        with jax.named_scope("optimizer"):  # for profiles
            directions, opt = update(gradient, state.opt, state.trainable, step=state.step)
            trainable = jax.tree.map(lambda p, d: p - learning_rate * d, state.trainable, directions)
        moved = state.replace(trainable=trainable, opt=opt)
        if ema_decay is not None:
            moved = moved.replace(average=_update_average(state.average, trainable, ema_decay, state.step))
        once = jnp.ones((), jnp.float32)
        sums = {
            **sums,
            "grad_norm": (optax.global_norm(gradient), once),
            "update_norm": (learning_rate * optax.global_norm(directions), once),
            "param_norm": (optax.global_norm(state.trainable), once),
        }
        if by_layer is not None:
            trees = {"grad_norm": gradient, "update_norm": directions, "param_norm": state.trainable}
            scales = {"update_norm": learning_rate}
            for what, tree in trees.items():
                sums |= {f"{what}/{name}": (scales.get(what, 1.0) * x, once) for name, x in by_layer(tree).items()}
        if skip_nonfinite and scaling is None:
            finite = _all_finite((gradient, [value for value, _ in sums.values()]))
            moved = jax.tree.map(partial(jnp.where, finite), moved, state)
            taken = finite.astype(jnp.float32)
            sums = {name: (jnp.where(finite, value, 0.0), weight * taken) for name, (value, weight) in sums.items()}
            sums["skipped"] = (1 - taken, once)
        if scaling is not None:
            moved, sums = _skip_overflow(_all_finite(gradient), scaling, state, moved, sums)
        return moved.replace(step=state.step + 1), sums

    def step(state: State, batches_K: Batch, knobs_K: dict[str, jax.Array]) -> tuple[State, Sums]:
        def body(i: jax.Array, carry: tuple[State, Sums]) -> tuple[State, Sums]:
            state, kept = carry
            batch = jax.tree.map(lambda x: x[i], batches_K)
            state, sums = one(state, batch, knobs_K["learning_rate"][i], knobs_K["key"])
            return state, jax.tree.map(lambda all_, new: all_.at[i].set(new), kept, sums)

        first = jax.tree.map(lambda x: x[0], batches_K)
        shapes = jax.eval_shape(lambda: one(state, first, knobs_K["learning_rate"][0], knobs_K["key"])[1])
        size = knobs_K["learning_rate"].shape[0]
        kept = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), shapes)
        return jax.lax.fori_loop(0, knobs_K["count"], body, (state, kept))

    return step


def _gradient(
    model: Model, objective: Task, ctx: Context, microbatches: int, shardings: Any | None
) -> GradientFunction:
    """Returns gradient(state, batch, key) -> (the gradient of the batch's mean objective, sums).

    Sums and gradients of sums are accumulated over microbatches in float32 and divided once: exact for ragged weights.
    A pipeline takes all microbatches in one call. Groups of devices along `data` accumulate gradients of their own rows
    and are added up once, at the end (the compiler would do so in every layer of every microbatch), but where rows
    share a statistic, as those that experts take do.
    """
    if microbatches > 1 and not objective.separable:
        raise UserError(
            f"training.microbatches: {microbatches}, but the loss of objective {objective.config.kind} is not a sum "
            "over examples, which could be accumulated; accepted: 1"
        )
    apart = objective.separable and not getattr(model, "aux_losses", None)
    groups = ctx.layout.groups if apart and ctx.layout is not None else 1
    within = ctx.in_group() if groups > 1 else ctx

    def of_rows(state: State, rows: Batch, keys: jax.Array) -> tuple[Params, Sums]:
        """The gradient of the rows' summed objective, taken of its scaled mean where the loss is scaled."""
        scale = None if state.loss_scale is None else state.loss_scale.value

        def loss(trainable: Params) -> tuple[jax.Array, tuple[Sums, jax.Array | float]]:
            sums = objective.loss(model, merge(state.frozen, trainable), rows, key=keys, ctx=within, scale=scale)
            value, weight = objective_of(sums)
            factor = 1.0 if scale is None else scale / _or_one(weight)
            return value * factor, (sums, factor)

        gradient, (sums, factor) = jax.grad(loss, has_aux=True)(state.trainable)
        return gradient if scale is None else jax.tree.map(lambda g: g / factor, gradient), sums

    @_traced_once
    def of_part(state: State, rows: Batch, keys: jax.Array) -> tuple[Params, Sums]:
        """The same, group by group where there are several: [groups, ...]."""
        rows = objective.prepare(state, rows, keys)
        if groups == 1:
            return of_rows(state, rows, keys)
        by_group = jax.tree.map(_of_group, (rows, keys))
        gradient, sums = jax.vmap(of_rows, (None, 0, 0), spmd_axis_name="data")(state, *by_group)
        return _pinned(gradient), sums

    def _of_group(x: jax.Array) -> jax.Array:
        x = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
        return x if ctx.layout is None or jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else ctx.layout.pin_groups(x)

    def _pinned(gradient: Params) -> Params:
        if groups == 1 or shardings is None or ctx.layout is None:
            return gradient
        pin = ctx.layout.pin_groups
        return jax.tree.map(lambda g, where: pin(g, where.spec), gradient, shardings)

    def in_stages(state: State, parts: Batch, keys: jax.Array) -> tuple[Params, Sums]:
        def flat(x: jax.Array) -> jax.Array:
            """[M, b, ...] to [M b, ...]: group after group, in each microbatch after microbatch."""
            x = x.reshape(microbatches, groups, -1, *x.shape[2:]).swapaxes(0, 1)
            return x.reshape(-1, *x.shape[3:])

        return of_part(state, *jax.tree.map(flat, (parts, keys)))

    def accumulated(state: State, parts: Batch, keys: jax.Array) -> tuple[Params, Sums]:
        def accumulate(carry: Any, xs: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, of_part(state, *xs)), None

        shapes = jax.eval_shape(lambda: of_part(state, *jax.tree.map(lambda x: x[0], (parts, keys))))
        zero_sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1])
        zero_grads = _pinned(jax.tree.map(lambda x: jnp.zeros(x.shape, ctx.policy.gradients), shapes[0]))
        return jax.lax.scan(accumulate, (zero_grads, zero_sums), (parts, keys), unroll=microbatches == 1)[0]

    def gradient(state: State, batch: Batch, key: jax.Array) -> tuple[Params, Sums]:
        rows = jax.tree.leaves(batch)[0].shape[0]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
        parts, keys = jax.tree.map(lambda x: _split_batch(x, microbatches), (batch, keys))
        grads, sums = (accumulated if ctx.pipeline is None else in_stages)(state, parts, keys)
        if groups > 1:
            grads, sums = jax.tree.map(lambda x: x.sum(0), (grads, sums))
        weight = _or_one(objective_of(sums)[1])  # a batch of nothing but padding moves nothing
        return jax.tree.map(lambda g: g / weight, grads), sums

    return gradient


def _update_average(average: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """The exponential moving average of the parameters (Polyak and Juditsky 1992, with exponential weights).

    d * average + (1 - d) * params, leaf by leaf, in float32, with d = min(decay, (1 + step) / (10 + step)) after `step`
    steps: the first ones forget the initial parameters, or a short run's average would be mostly these. It is `decay`
    from step (10 decay - 1) / (1 - decay) on: step 890 for .99.
    """
    t = step.astype(jnp.float32)
    rest = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, p: a + rest * (p - a), average, params)


def _all_finite(tree: Any) -> jax.Array:
    """Whether no number of a tree is infinite or NaN; a maximum across the emulated devices of a CPU drops NaN."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _skip_overflow(finite: jax.Array, rule: LossScaling, before: State, moved: State, sums: Sums) -> tuple[State, Sums]:
    """Keeps the state as it was unless the gradient is `finite`, and sets the next step's loss scale."""
    assert before.loss_scale is not None
    scale = before.loss_scale
    state = jax.tree.map(partial(jnp.where, finite), moved, before).replace(loss_scale=scale.after(finite, rule))
    taken = finite.astype(jnp.float32)
    sums = {**sums, "loss_scale": (scale.value, jnp.ones_like(taken)), "skipped": (1 - taken, jnp.ones_like(taken))}
    for name in sums:
        if name.split("/")[0] in ("grad_norm", "update_norm"):  # infinite: selected, for 0 times infinity is no number
            sums[name] = (jnp.where(finite, sums[name][0], 0.0), taken)
    return state, sums


def _or_one(weight: jax.Array) -> jax.Array:
    return jnp.where(weight > 0, weight, 1.0)


def _split_batch(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] -> [parts, B / parts, ...], each part taking every parts-th row: those of a device stay there."""
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
