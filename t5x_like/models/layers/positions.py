# SPDX-License-Identifier: Apache-2.0
"""Positions: rotary (Su et al. 2021) and sinusoidal (Vaswani et al. 2017). Learned ones are an embedding table."""

import jax
import jax.numpy as jnp


def rotary(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Turns the pairs (x[i], x[i + C/2]) of heads [B, T, heads, C], C even, by the angle position * theta^(-2i/C).

    Differs from the paper: pairs are half a head apart instead of neighbours, the order that LLaMA's published weights
    in the Hugging Face format have; the two differ by a permutation of the head's dimensions.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies  # [B, T, 1, C/2]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def sinusoidal(positions: jax.Array, width: int) -> jax.Array:
    """Returns float32 [B, T, width]: sines in the even dimensions, cosines in the odd ones, as in section 3.5."""
    half = jnp.arange(width // 2, dtype=jnp.float32)
    angles = positions[..., None].astype(jnp.float32) * 10000.0 ** (-2 * half / width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*positions.shape, width)
