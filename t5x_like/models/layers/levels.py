# SPDX-License-Identifier: Apache-2.0
"""Numbers as codes: the nearest of a few levels, or of the 256 of the dynamic data type of eight bits (Dettmers et
al. 2022, 8-bit Optimizers via Block-wise Quantization, section 1.3).

Everything is arithmetic, which fuses with what it is used in: after a lookup it would lie in memory in float32.
"""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 256  # elements that share a scale


def nearest_level(x: jax.Array, levels: np.ndarray) -> jax.Array:
    """The index of the nearest of a few levels in order, uint8; halfway between two it is the lower."""
    between = (levels[:-1] + levels[1:]) / 2
    return reduce(jnp.add, [(x > edge).astype(jnp.uint8) for edge in between])


def level_of(codes: jax.Array, levels: np.ndarray) -> jax.Array:
    """The levels of their indices, float32."""
    whole = jnp.full(codes.shape, levels[0], jnp.float32)
    return reduce(lambda found, i: jnp.where(codes >= i, levels[i], found), range(1, len(levels)), whole)


def _decades(signed: bool) -> list[tuple[int, float, float]]:
    """The dynamic data type but for 0 and 1, from its smallest numbers up: (first, low, part) of every power of ten.

    A byte has a sign bit, where there is a sign, then zeros, then a one and the bits that are left. Each zero divides
    by ten; the bits choose one of as many equal parts of [0.1, 1], whose middle they are. So, signs aside, the numbers
    that count `first` to 2 first - 1 are low + part (0.5, 1.5, ...); 0 counts as 0 with signs and as 1 without.
    """
    firsts = [(2 ** (7 - signed - zeros), 0.1 * 10.0**-zeros) for zeros in range(6, -1, -1)]
    return [(first, low, 9 * low / first) for first, low in firsts]


def _number(count: jax.Array, signed: bool) -> jax.Array:
    """The numbers from 0 to 1 by their counts."""
    number = jnp.zeros_like(count)
    for first, low, part in _decades(signed):
        number = jnp.where(count >= first, low + part * (count - first + 0.5), number)
    return jnp.where(count == (128 if signed else 256), 1.0, number)


def _nearest(size: jax.Array, signed: bool) -> jax.Array:
    """The count of the number that is nearest to one from 0 to 1, or of the smaller of two that are as near."""
    count, below = jnp.full_like(size, 0 if signed else 1), 0.0
    for first, low, part in _decades(signed):
        inside = jnp.clip(jnp.ceil((size - low) / part) - 1, 0, first - 1)
        count = jnp.where(size > (below + low + part / 2) / 2, first + inside, count)
        below = low + part * (first - 0.5)
    return jnp.where(size > (below + 1) / 2, 128 if signed else 256, count)


def coded_blocks(x: jax.Array, signed: bool) -> tuple[jax.Array, jax.Array]:
    """Codes of x over the largest magnitude of its block, along the last dimension: [..., n] to uint8 [..., n], and
    those magnitudes, float32 [..., n / 256, rounded up]. Without a sign x is not below 0."""
    size = x.shape[-1]
    blocks = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -size % BLOCK)])
    blocks = blocks.reshape(*x.shape[:-1], -1, BLOCK)
    scales = jnp.abs(blocks).max(-1)
    parts = blocks / jnp.where(scales > 0, scales, 1.0)[..., None]
    count = _nearest(jnp.abs(parts), signed)
    codes = jnp.where(parts < 0, 127 - jnp.minimum(count, 127), 127 + count) if signed else count - 1
    return codes.astype(jnp.uint8).reshape(*x.shape[:-1], -1)[..., :size], scales


def decoded_blocks(codes: jax.Array, scales: jax.Array, signed: bool) -> jax.Array:
    """What codes [..., n] and scales stand for, float32."""
    wide = codes.astype(jnp.float32)
    numbers = jnp.sign(wide - 127) * _number(jnp.abs(wide - 127), signed) if signed else _number(wide + 1, signed)
    return numbers * jnp.repeat(scales, BLOCK, axis=-1)[..., : codes.shape[-1]]
