# SPDX-License-Identifier: Apache-2.0
"""The training state: everything that a step reads and replaces."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from t5x_like.models.layers.parameters import Params


class State(flax.struct.PyTreeNode):
    """Parameters and what trains them.

    Attributes:
      step: int32 scalar, number of steps taken.
      trainable: parameters that the optimizer moves.
      frozen: the others (empty when everything is trained).
      opt: the optimizer's state.
      loss_scale: float32 scalar; 1 unless the compute dtype needs scaling.
    """

    step: jax.Array
    trainable: Params
    frozen: Params
    opt: Any
    loss_scale: jax.Array


def merge(frozen: Params, trainable: Params) -> Params:
    """Joins two nested dicts that share no leaf into the tree that the model reads."""
    merged = dict(frozen)
    for name, value in trainable.items():
        merged[name] = merge(merged[name], value) if name in merged else value
    return merged


def init_state(params: Params, optimizer: optax.GradientTransformation) -> State:
    """Returns the state before the first step, every parameter trainable."""
    return State(
        step=jnp.zeros((), jnp.int32),
        trainable=params,
        frozen={},
        opt=optimizer.init(params),
        loss_scale=jnp.ones((), jnp.float32),
    )
