# SPDX-License-Identifier: Apache-2.0
"""The few largest of many."""

import jax
import jax.numpy as jnp

_BLOCK = 64


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` along the last dimension, of equals the one with the lower index first, by blocks.

    Whatever is among the k largest lies in one of the k blocks whose largest are largest; only those are ranked. On a
    CPU, where ranking a vocabulary takes longer than reading it, that is much cheaper.
    """
    size = x.shape[-1]
    blocks = -(-size // _BLOCK)
    if blocks <= 2 * k:
        return jax.lax.top_k(x, k)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, blocks * _BLOCK - size)]
    by_block = jnp.pad(x, padding, constant_values=-jnp.inf).reshape(*x.shape[:-1], blocks, _BLOCK)
    chosen = jnp.sort(jax.lax.top_k(by_block.max(-1), k)[1], axis=-1)  # in order, for ties
    candidates = jnp.take_along_axis(by_block, chosen[..., None], axis=-2).reshape(*x.shape[:-1], k * _BLOCK)
    best, at = jax.lax.top_k(candidates, k)
    return best, jnp.take_along_axis(chosen, at // _BLOCK, axis=-1) * _BLOCK + at % _BLOCK
