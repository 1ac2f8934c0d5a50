# SPDX-License-Identifier: Apache-2.0
"""A cache that grows: a step attends to all slots, so those that are used much later had better not be there yet.

The compiled call has one loop after another, each with a longer cache.
"""

import jax

from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes

_MOST_IN_ONE_LOOP = 64  # new tokens; fewer are not worth compiling another loop, which takes a second or two


def rooms(prompt_length: int, new: int, ctx: Context, beams: int = 1) -> tuple[int, ...]:
    """For how many of `new` tokens a prompt, or each of its beams, there is room in each loop; in the last for all.

    There are two loops where the first can do without a third of the slots or more. Only on a CPU: elsewhere it has not
    been measured, and memory, which while the cache grows holds both, is dear.
    """
    half = -(-new // 32) * 16
    saves = 3 * (prompt_length + beams * half) <= 2 * (prompt_length + beams * new)
    return (half, new) if ctx.one_cpu and new > _MOST_IN_ONE_LOOP and saves else (new,)


def lengthened(model: Decodes, cache: Params, length: int) -> Params:
    """A cache of `length` slots that holds what `cache` does."""
    rows, memory = cache["segment_ids"].shape[0], cache.get("memory_segments")
    longer = model.init_cache(rows, length, encoder_length=0 if memory is None else memory.shape[1])

    def write(longer: jax.Array, held: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(longer.astype(held.dtype), held, (0,) * held.ndim)

    return {**cache, **{name: jax.tree.map(write, longer[name], cache[name]) for name in longer if name != "index"}}
