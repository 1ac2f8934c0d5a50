# SPDX-License-Identifier: Apache-2.0
"""The training state: everything that a step reads and replaces."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from t5x_like.models.layers.parameters import Params
from t5x_like.precision import LossScaling
from t5x_like.training.loss_scale import LossScale


class State(flax.struct.PyTreeNode):
    """Parameters and what trains them.

    Attributes:
      step: int32 scalar, number of steps taken.
      trainable: parameters that the optimizer moves.
      frozen: the others (empty when everything is trained).
      opt: the optimizer's state.
      loss_scale: of dynamic loss scaling; None where the precision needs none.
      average: exponential moving average of `trainable`; empty when none is kept.
    """

    step: jax.Array
    trainable: Params
    frozen: Params
    opt: Any
    loss_scale: LossScale | None = None
    average: Params = flax.struct.field(default_factory=dict)


def merge(frozen: Params, trainable: Params) -> Params:
    """Joins two nested dicts that share no leaf into the tree that the model reads."""
    merged = dict(frozen)
    for name, value in trainable.items():
        merged[name] = merge(merged[name], value) if name in merged else value
    return merged


def part_of(tree: Params, like: Params) -> Params:
    """Takes from a nested dict the leaves that `like`, a part of it, has: the other way round from `merge`."""
    return {name: part_of(tree[name], value) if isinstance(value, dict) else tree[name] for name, value in like.items()}


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    loss_scaling: LossScaling | None = None,
    average: bool = False,
) -> State:
    """Returns the state before the first step, every parameter trainable; an `average` starts at the parameters."""
    return State(
        step=jnp.zeros((), jnp.int32),
        trainable=params,
        frozen={},
        opt=optimizer.init(params),
        loss_scale=None if loss_scaling is None else LossScale.start(loss_scaling),
        average=jax.tree.map(jnp.copy, params) if average else {},
    )
