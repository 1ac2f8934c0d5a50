# SPDX-License-Identifier: Apache-2.0
"""The training state: everything that a step reads and replaces."""

import difflib
import re
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config import FullTuningConfig, PartialTuningConfig, RunConfig, TuningConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import Params, map_specs
from t5x_like.precision import LossScaling, policy
from t5x_like.training.optimizers import build_optimizer
from t5x_like.tuning import tuned_specs

_FULL = FullTuningConfig()


class LossScale(flax.struct.PyTreeNode):
    """Dynamic loss scaling (Micikevicius et al. 2018): the scale and what its rule counts."""

    value: jax.Array  # float32 scalar, what the mean loss is multiplied by
    quiet_steps: jax.Array  # int32 scalar, steps with finite gradients since the scale last changed

    @classmethod
    def start(cls, rule: LossScaling) -> "LossScale":
        return cls(jnp.asarray(rule.initial, jnp.float32), jnp.zeros((), jnp.int32))

    def after(self, finite: jax.Array, rule: LossScaling) -> "LossScale":
        """The next step's scale, within `rule.lowest` and `rule.highest`: halved unless this step's gradients were
        finite, doubled after a quiet time; either starts the count anew."""
        quiet = self.quiet_steps + 1
        grows = quiet >= rule.growth_interval
        larger = jnp.where(grows, jnp.minimum(2 * self.value, rule.highest), self.value)
        smaller = jnp.maximum(self.value / 2, rule.lowest)
        return LossScale(jnp.where(finite, larger, smaller), jnp.where(finite & ~grows, quiet, 0))


class State(flax.struct.PyTreeNode):
    """Parameters and what trains them."""

    step: jax.Array  # int32 scalar, number of steps taken
    trainable: Params  # parameters that the optimizer moves
    frozen: Params  # the others (empty when everything is trained)
    opt: Any  # the optimizer's state
    loss_scale: LossScale | None = None  # of dynamic loss scaling; None where the precision needs none
    # The exponential moving one of `trainable`; empty when none is kept.
    average: Params = flax.struct.field(default_factory=dict)
    # Parameters of a model that this one learns from, which nothing moves and no checkpoint holds; empty without one.
    teacher: Params = flax.struct.field(default_factory=dict)


def merge(frozen: Params, trainable: Params) -> Params:
    """Joins two nested dicts that share no leaf into the tree that the model reads."""
    merged = dict(frozen)
    for name, value in trainable.items():
        merged[name] = merge(merged[name], value) if name in merged else value
    return merged


def part_of(tree: Params, like: Params) -> Params:
    """Takes from a nested dict the leaves that `like`, a part of it, has: the other way round from `merge`."""
    return {name: part_of(tree[name], value) if isinstance(value, dict) else tree[name] for name, value in like.items()}


def split(tree: Params, tuning: TuningConfig) -> tuple[Params, Params]:
    """Divides a nested dict by the names of its leaves: (frozen, trainable), which `merge` joins again. A kernel in few
    bits, a dict where others are arrays, is frozen. UserError: a pattern that matches no name."""
    leaves = flatten_dict(tree, sep="/")
    if isinstance(tuning, PartialTuningConfig):
        for number, pattern in enumerate(tuning.train):
            if not any(re.fullmatch(pattern, name) for name in leaves):
                close = ", ".join(map(repr, difflib.get_close_matches(pattern, leaves, n=3, cutoff=0.0)))
                raise UserError(
                    f"tuning.train[{number}]: pattern {pattern!r} matches the whole name of no parameter; accepted: "
                    f"e.g. {close}"
                )
    parts: tuple[Params, Params] = {}, {}
    for name, leaf in leaves.items():
        parts[tuning.trains(name) and "/kernel/" not in name][name] = leaf
    return unflatten_dict(parts[False], sep="/"), unflatten_dict(parts[True], sep="/")


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    tuning: TuningConfig = _FULL,
    loss_scaling: LossScaling | None = None,
    average: bool = False,
) -> State:
    """Returns the state before the first step; an `average` starts at the parameters that are trained."""
    frozen, trainable = split(params, tuning)
    return State(
        step=jnp.zeros((), jnp.int32),
        trainable=trainable,
        frozen=frozen,
        opt=optimizer.init(trainable),
        loss_scale=None if loss_scaling is None else LossScale.start(loss_scaling),
        average=jax.tree.map(jnp.copy, trainable) if average else {},
    )


def state_bytes(config: RunConfig) -> dict[str, int]:
    """Bytes that training keeps from step to step, over all devices, without activations and counters, by shapes alone:
    of "parameters", "gradients" (one step's), the "optimizer"'s state and the parameters' "average"."""
    specs = tuned_specs(build_model(config.model).specs(), config.tuning, config.quantisation)
    _, trained = split(specs, config.tuning)
    optimizer = build_optimizer(config.optimizer, trained)
    dtype = policy(config.precision).params

    def shapes(specs: Params) -> Any:
        return map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype or dtype), specs)

    state = {
        "parameters": shapes(specs),
        "gradients": shapes(trained),
        "optimizer": jax.eval_shape(optimizer.init, shapes(trained)),
        "average": {} if config.training.ema_decay is None else shapes(trained),
    }
    leaves = {name: [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim] for name, tree in state.items()}
    return {name: sum(leaf.size * leaf.dtype.itemsize for leaf in each) for name, each in leaves.items()}
