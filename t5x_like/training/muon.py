# SPDX-License-Identifier: Apache-2.0
"""Muon (Jordan et al. 2024): momentum, orthogonalised matrix by matrix.

Not Optax's, which corrects the two terms of Nesterov's sum for their start by different factors: that turns the first
steps' direction.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from t5x_like.config import MuonConfig
from t5x_like.models.layers.parameters import Params, ParamSpec, map_specs
from t5x_like.training.matrices import dimensions, from_matrices, to_matrices

# Axes between which the hidden layers map. What has another one, as the tables of tokens and positions and the
# logits have, maps from or to one-hot vectors and is AdamW's.
HIDDEN_AXES = frozenset({"embed", "mlp", "heads", "kv_heads", "head_dim"})
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: steepest at 0, singular values end between 0.7 and 1.2


def is_hidden(spec: ParamSpec) -> bool:
    """Whether a parameter is a matrix between hidden layers."""
    return spec.is_matrix and HIDDEN_AXES.issuperset(spec.in_axes + spec.out_axes)


class MuonState(NamedTuple):
    momentum: Params  # the average of the gradients


def scale_by_muon(config: MuonConfig, specs: Params) -> optax.GradientTransformation:
    """Returns the orthogonalised momentum of parameters all of which are matrices.

    M = momentum M + (1 - momentum) G;  with Nesterov momentum M + (1 - momentum) G is orthogonalised, else M.

    Differs from Jordan's code: computes in float32, not in bfloat16.
    """
    beta = config.momentum

    def init(params: Params) -> MuonState:
        return MuonState(map_specs(lambda spec: jnp.zeros(spec.shape, jnp.float32), specs))

    def update(grads: Params, state: MuonState, params: Params | None = None) -> tuple[Params, MuonState]:
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.momentum, grads)
        ahead = momentum
        if config.nesterov:
            ahead = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momentum, grads)

        def direction(spec: ParamSpec, x: jax.Array) -> jax.Array:
            matrices = newton_schulz(to_matrices(x, spec), config.newton_schulz_steps)
            return from_matrices(matrices * _scale(config, spec), spec)

        return map_specs(direction, specs, ahead), MuonState(momentum)

    return optax.GradientTransformation(init, update)


def _scale(config: MuonConfig, spec: ParamSpec) -> float:
    dims = dimensions(spec)
    rows, columns = (math.prod(spec.shape[dim] for dim in group) for group in (dims.rows, dims.columns))
    if config.update_scale == "spectral":
        return math.sqrt(max(1.0, columns / rows))
    return 0.2 * math.sqrt(max(rows, columns))


def newton_schulz(matrices: jax.Array, steps: int) -> jax.Array:
    """Brings the singular values of each matrix [..., rows, columns] near 1, its singular vectors unchanged. X = X /
    |X|, then `steps` times X = a X + (b A + c A^2) X with A = X X^T."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT  # the smaller of the two products
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
