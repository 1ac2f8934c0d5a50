# SPDX-License-Identifier: Apache-2.0
"""A cache that grows: a step attends to all slots, so those that are used much later had better not be there yet.

The compiled call has one loop after another, each with a longer cache.
"""

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model

_LONGEST_AT_ONCE = 64  # new tokens; fewer are not worth compiling another loop


def stages(slots: int) -> tuple[int, ...]:
    """How many new tokens there is room for in each loop; the last has room for `slots`."""
    half = -(-slots // 32) * 16
    return (slots,) if slots <= _LONGEST_AT_ONCE else (half, slots)


def lengthened(model: Model, cache: Params, length: int, ctx: Context) -> Params:
    """A cache of `length` slots that holds what `cache` does."""
    longer = model.init_cache(cache["segment_ids"].shape[0], length, ctx.policy.compute)

    def write(longer: jax.Array | int, held: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(jnp.asarray(longer, held.dtype), held, (0,) * held.ndim)

    return jax.tree.map(write, longer, cache)
