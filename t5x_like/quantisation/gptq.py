# SPDX-License-Identifier: Apache-2.0
"""GPTQ (Frantar et al. 2023): kernels rounded so that what they make of real inputs changes least.

One input after the other is rounded; the error that this makes on calibration data is made up for by the inputs that
are not rounded yet. With W [inputs, outputs], H = X^T X + d I, and U the upper Cholesky factor of H^-1,

    W_j,: -= U_i,j (W_i,: - rounded(W_i,:)) / U_i,i        for all j > i

Differs from the paper: H is that of the whole model's inputs, not of one whose layers below are rounded already; codes
may be of any format, and a group's scale is that of its weights when its turn comes.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_like.config.quantisation import QuantisationConfig
from t5x_like.models.layers.parameters import Params, ParamSpec
from t5x_like.models.layers.quantised import Quantised, group_of, packed, rounded, value
from t5x_like.models.layers.watched import Watched
from t5x_like.quantisation.model import QuantisedModel, as_parts, inputs_of, sizes_of

DAMPING = 0.01  # d, as a share of the mean of H's diagonal

Grams = dict[str, jax.Array]


def gathered(
    loss: Callable[[Params, Any], jax.Array], params: Params, kernels: dict[str, ParamSpec], batches: Iterable[Any]
) -> Grams:
    """X^T X of every kernel by its name, [side..., inputs, inputs], over batches; `loss(params, batch)` is any scalar
    that the kernels have to do with."""
    leaves = flatten_dict(params, sep="/")
    zeros = {}
    for name, spec in kernels.items():
        side, size = sizes_of(spec)[0], inputs_of(spec)
        zeros[name] = jnp.zeros((*side, size, size), jnp.float32)

    @jax.jit
    def gradient(leaves: Params, batch: Any) -> Grams:
        def of(grams: Grams) -> jax.Array:
            nodes = {name: Watched(leaves[name], gram) for name, gram in grams.items()}
            return loss(unflatten_dict(leaves | nodes, sep="/"), batch)

        return jax.grad(of)(zeros)

    total = zeros
    for batch in batches:
        total = jax.tree.map(jnp.add, total, gradient(leaves, batch))
    return total


def stored_by_gptq(model: QuantisedModel, params: Params, grams: Grams) -> Params:
    """As `stored`, of parameters that are whole."""
    leaves = flatten_dict(params, sep="/")
    for name, spec in model.kernels.items():
        side, into, produced = sizes_of(spec)
        kernel = leaves[name].astype(jnp.float32).reshape(*side, inputs_of(spec), *produced)
        node = _encoded(kernel, grams[name], model.how, into, len(produced))
        leaves |= {f"{name}/{part}": array for part, array in as_parts(node).items()}
        del leaves[name]
    return dict(unflatten_dict(leaves, sep="/"))


@partial(jax.jit, static_argnums=(2, 3, 4))
def _encoded(
    flat: jax.Array, gram: jax.Array, how: QuantisationConfig, into: tuple[int, ...], produced: int
) -> Quantised:
    """A kernel [side..., inputs, produced...] in the format."""
    at = flat.ndim - produced - 1
    inputs, outs = flat.shape[at], flat.shape[at + 1 :]
    function = partial(gptq, how=how)
    for _ in range(at):
        function = jax.vmap(function)
    codes, scales = function(flat.reshape(*flat.shape[: at + 1], -1), gram)
    shape = *flat.shape[:at], -1, *outs
    assert codes.shape[at] == inputs
    return packed(codes.reshape(shape), scales.reshape(shape), how, into, produced)


def gptq(kernel: jax.Array, gram: jax.Array, how: QuantisationConfig) -> tuple[jax.Array, jax.Array]:
    """Codes [I, O] and scales [groups, O] of a kernel [I, O], given X^T X [I, I]."""
    inputs = kernel.shape[0]
    group = group_of(how, inputs)
    assert group is not None
    idle = jnp.diag(gram) == 0  # an input that was always 0
    hessian = gram + jnp.diag(jnp.where(idle, 1.0, 0.0)) + DAMPING * jnp.diag(gram).mean() * jnp.eye(inputs)
    lower = jnp.linalg.cholesky(hessian)
    inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.eye(inputs))
    upper = jnp.linalg.cholesky(inverse).T

    def one(i: jax.Array, carry: Any) -> Any:
        kernel, codes, scales = carry
        rows = jax.lax.dynamic_slice_in_dim(kernel, i // group * group, group)
        scale = jnp.where(i % group == 0, jnp.abs(rows).max(0), scales[i // group])
        row = kernel[i]
        code = rounded(row / jnp.where(scale > 0, scale, 1.0), how)
        error = (row - value(code, how) * scale) / upper[i, i]
        return kernel - upper[i][:, None] * error, codes.at[i].set(code), scales.at[i // group].set(scale)

    codes = rounded(jnp.zeros_like(kernel), how)
    start = kernel.astype(jnp.float32), codes, jnp.zeros((inputs // group, kernel.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, inputs, one, start)[1:]
