# SPDX-License-Identifier: Apache-2.0
"""Adafactor (Shazeer and Stern 2018) on stacked parameters.

Not taken from Optax, which factors the two largest dimensions of whatever shape it sees: of a stack of query kernels
[L, D, H, C] maybe the layers and the heads. Here the rows are what a product contracts, the columns what it produces,
and every layer is a matrix of its own. Moments keep their dimensions, [L, D] and [L, H, C], and are cut over a mesh so.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from t5x_like.config import AdafactorConfig
from t5x_like.models.layers.parameters import Params, ParamSpec, map_specs
from t5x_like.training.matrices import dimensions


class Factored(NamedTuple):
    """Second moments of one matrix, or of a stack."""

    rows: jax.Array  # the parameter's shape without the dimensions that a product produces
    columns: jax.Array  # the parameter's shape without the dimensions that a product contracts


class AdafactorState(NamedTuple):
    step: jax.Array  # the number taken
    second: Any  # a `Factored` or an array for each parameter


def scale_by_adafactor(config: AdafactorConfig, specs: Params) -> optax.GradientTransformation:
    """Returns algorithms 4 (matrices) and 5 (vectors) of the paper without the step size.

    beta2 = 1 - t ** -decay_exponent;  R = beta2 R + (1 - beta2) mean over columns of (G^2 + epsilon1);  C likewise over
    rows;  V = R C / mean(R);  U = G / sqrt(V);  U / max(1, RMS(U) / clip_update);  times max(epsilon2, RMS(X)).
    """

    def init(params: Params) -> AdafactorState:
        return AdafactorState(jnp.zeros((), jnp.int32), map_specs(lambda spec: _no_moments(config, spec), specs))

    def update(grads: Params, state: AdafactorState, params: Params | None = None) -> tuple[Params, AdafactorState]:
        step = optax.safe_increment(state.step)
        beta2 = 1 - step.astype(jnp.float32) ** -config.decay_exponent
        moved = map_specs(partial(_update_one, config, beta2), specs, grads, state.second, params)
        # From a pair at every parameter to a pair of trees.
        updates, second = (map_specs(lambda _, pair, i=i: pair[i], specs, moved) for i in range(2))
        return updates, AdafactorState(step, second)

    return optax.GradientTransformation(init, update)


def _no_moments(config: AdafactorConfig, spec: ParamSpec) -> Any:
    def zeros(without: tuple[int, ...]) -> jax.Array:
        return jnp.zeros([size for dim, size in enumerate(spec.shape) if dim not in without], jnp.float32)

    if not (config.factored and spec.is_matrix):
        return zeros(())
    dims = dimensions(spec)
    return Factored(rows=zeros(dims.columns), columns=zeros(dims.rows))


def _update_one(
    config: AdafactorConfig, beta2: jax.Array, spec: ParamSpec, grad: jax.Array, second: Any, param: jax.Array
) -> tuple[jax.Array, Any]:
    dims = dimensions(spec)
    grad = grad.astype(jnp.float32)
    squares = grad**2 + config.epsilon1

    def average(old: jax.Array, over: tuple[int, ...]) -> jax.Array:
        return beta2 * old + (1 - beta2) * squares.mean(over)

    def root_mean_square(x: jax.Array) -> jax.Array:  # of every layer for itself
        return jnp.sqrt(jnp.mean(x.astype(jnp.float32) ** 2, dims.own, keepdims=True))

    if isinstance(second, Factored):
        second = Factored(average(second.rows, dims.columns), average(second.columns, dims.rows))
        rows = jnp.expand_dims(second.rows, dims.columns)
        columns = jnp.expand_dims(second.columns, dims.rows)
        # two roots, not the root of a product: epsilon1 squared is no float32
        direction = grad * jax.lax.rsqrt(rows / rows.mean(dims.rows, keepdims=True)) * jax.lax.rsqrt(columns)
    else:
        second = average(second, ())
        direction = grad * jax.lax.rsqrt(second)
    if config.clip_update is not None:
        direction = direction / jnp.maximum(1.0, root_mean_square(direction) / config.clip_update)
    if config.scale_by_parameter:
        direction = direction * jnp.maximum(config.epsilon2, root_mean_square(param))
    return direction, second
