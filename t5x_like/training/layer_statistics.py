# SPDX-License-Identifier: Apache-2.0
"""Norms of gradients, parameters and updates by layer, and the size of what goes from layer to layer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params, named_specs
from t5x_like.models.model import Model
from t5x_like.objectives.task import Batch
from t5x_like.training.parameter_rules import layer_numbers, path_name

Norms = Callable[[Params], dict[str, jax.Array]]


def norms_by_layer(specs: Params, order: Callable[[int], np.ndarray] = np.arange) -> Norms:
    """Returns norms(tree like `specs`) -> {"decoder/layers/03": norm, "token_embedding": norm, ...}; layers are stacked
    as `models/stack.py` says, in an `order` that `layer_numbers` describes."""
    named, numbers = named_specs(specs), layer_numbers(specs, order)

    def groups(name: str) -> list[str]:
        """The group of every layer that a parameter is of; one, where it is of none."""
        if name not in numbers:
            return [name.rpartition("/")[0] or name]
        stack, layers = numbers[name]
        return [f"{stack}layers/{layer:02}" for layer in layers]

    def norms(tree: Params) -> dict[str, jax.Array]:
        squares: dict[str, jax.Array] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = path_name(path)
            spec = named[name]
            kept = spec.axes.index("layers") if "layers" in spec.axes else None
            square = jnp.square(leaf.astype(jnp.float32))
            others = tuple(dim for dim in range(leaf.ndim) if dim != kept)
            each = square.sum(others) if others != tuple(range(leaf.ndim)) else square.sum()[None]
            for i, group in enumerate(groups(name)):
                squares[group] = squares.get(group, 0.0) + each[i]
        return {group: jnp.sqrt(square) for group, square in sorted(squares.items())}

    return norms


def activation_sizes(model: Model, params: Params, batch: Batch, ctx: Context) -> dict[str, jax.Array]:
    """Root mean square and largest magnitude of what enters every layer and leaves the last, [L + 1] each. Of the
    model's last stream; nothing of a model whose layers do not tell, nor of a pipeline."""
    if ctx.pipeline is not None:
        return {}
    states = model.apply(params, batch, want=("hidden_states",), ctx=ctx).get("hidden_states")
    if states is None:
        return {}
    states = jnp.abs(states.astype(jnp.float32))
    axes = tuple(range(1, states.ndim))
    return {"activation_rms": jnp.sqrt(jnp.square(states).mean(axes)), "activation_max": states.max(axes)}


def named_by_layer(sizes: dict[str, jax.Array]) -> dict[str, float]:
    """{"activation_rms/layers/00": ..., ...} of what `activation_sizes` returns."""
    found = jax.device_get(sizes)
    return {f"{name}/layers/{i:02}": float(x) for name, each in found.items() for i, x in enumerate(each)}
