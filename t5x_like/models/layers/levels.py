# SPDX-License-Identifier: Apache-2.0
"""Numbers as codes of a few levels within [-1, 1].

Dynamic levels (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization", section 2.1) have seven decades,
and in each a sign and fractions between .1 and 1, twice as many as in the decade below.
"""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

DECADES = 7


def dynamic_levels(signed: bool) -> np.ndarray:
    """The 256 levels, float32, in order; without a sign they begin at 0."""
    found = [0.0, 1.0]
    for decade in range(DECADES):
        edges = np.linspace(0.1, 1, 2 ** (decade + (not signed)) + 1)
        fractions = 10.0 ** (decade - DECADES + 1) * (edges[:-1] + edges[1:]) / 2
        found += [*fractions, *(-fractions if signed else ())]
    return np.sort(np.array(found)).astype(np.float32)


SIGNED, UNSIGNED = dynamic_levels(True), dynamic_levels(False)


def nearest_level(x: jax.Array, levels: np.ndarray) -> jax.Array:
    """The index of the nearest level, uint8; halfway between two it is the lower."""
    between = (levels[:-1] + levels[1:]) / 2
    if len(levels) > 16:
        return jnp.searchsorted(between, x, side="left").astype(jnp.uint8)
    return reduce(jnp.add, [(x > edge).astype(jnp.uint8) for edge in between])


def decoded_levels(codes: jax.Array, levels: np.ndarray) -> jax.Array:
    """The levels of codes, float32."""
    return jnp.take(jnp.asarray(levels), codes.astype(jnp.int32), mode="clip")


def absmax_coded(x: jax.Array, levels: np.ndarray, block: int) -> tuple[jax.Array, jax.Array]:
    """Codes of x over the largest magnitude of its block, along the last dimension: [..., n] to uint8 [..., n], and
    those magnitudes, float32 [..., n / block, rounded up]."""
    count = x.shape[-1]
    filled = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -count % block)])
    blocks = filled.reshape(*x.shape[:-1], -1, block)
    most = jnp.abs(blocks).max(-1)
    codes = nearest_level(blocks / jnp.where(most > 0, most, 1.0)[..., None], levels)
    return codes.reshape(filled.shape)[..., :count], most
