# SPDX-License-Identifier: Apache-2.0
"""Bytes that training keeps from step to step, over all devices. Activations are not among them."""

from typing import Any

import jax

from t5x_like.config import RunConfig
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import Params, map_specs
from t5x_like.precision import policy
from t5x_like.training.optimizers import build_optimizer
from t5x_like.training.state import split


def state_bytes(config: RunConfig) -> dict[str, int]:
    """Bytes of "parameters", "gradients" (one step's), the "optimizer"'s state and the parameters' "average".

    From shapes alone, those of what is trained; counters of a few bytes are left out.
    """
    specs = build_model(config.model).specs()
    _, trained = split(specs, config.tuning)
    optimizer = build_optimizer(config.optimizer, trained)
    dtype = policy(config.precision).params

    def shapes(specs: Params) -> Any:
        return map_specs(lambda spec: jax.ShapeDtypeStruct(spec.shape, dtype), specs)

    state = {
        "parameters": shapes(specs),
        "gradients": shapes(trained),
        "optimizer": jax.eval_shape(optimizer.init, shapes(trained)),
        "average": {} if config.training.ema_decay is None else shapes(trained),
    }
    return {name: sum(_bytes(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in state.items()}


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize if leaf.ndim else 0
