# SPDX-License-Identifier: Apache-2.0
"""Positions: rotary (Su et al. 2021) and sinusoidal (Vaswani et al. 2017). Learned ones are an embedding table."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.config.models.rope import RopeScalingConfig


def rotary(x: jax.Array, positions: jax.Array, theta: float, scaling: RopeScalingConfig | None = None) -> jax.Array:
    """Turns the pairs (x[i], x[i + C/2]) of heads [B, T, heads, C], C even, by the angle position * theta^(-2i/C).

    Differs from the paper: pairs are half a head apart instead of neighbours, the order that LLaMA's published weights
    in the Hugging Face format have; the two differ by a permutation of the head's dimensions.
    """
    frequencies, size = rotary_frequencies(x.shape[-1] // 2, theta, scaling)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies  # [B, T, 1, C/2]
    cos, sin = size * jnp.cos(angles), size * jnp.sin(angles)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def rotary_frequencies(half: int, theta: float, scaling: RopeScalingConfig | None) -> tuple[np.ndarray, float]:
    """Returns float32 [C/2], in radians a position, and what cosines and sines are multiplied by."""
    plain = theta ** (-np.arange(half) / half)
    if scaling is None:
        return plain.astype(np.float32), 1.0
    slow, size = plain / scaling.factor, 1.0
    if scaling.kind == "linear":
        kept = np.zeros(half)
    elif scaling.kind == "llama3":
        turns = scaling.original_length * plain / (2 * math.pi)
        low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
    else:
        ends = [
            half * math.log(scaling.original_length / (turns * 2 * math.pi)) / math.log(theta)
            for turns in (scaling.beta_fast, scaling.beta_slow)
        ]
        first, last = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), 2 * half - 1)
        kept = 1 - np.clip((np.arange(half) - first) / max(last - first, 1e-3), 0, 1)
        size = scaling.attention_factor or 1 + 0.1 * math.log(max(scaling.factor, 1))
    return (kept * plain + (1 - kept) * slow).astype(np.float32), size


def sinusoidal(positions: jax.Array, width: int, sines_first: bool = False) -> jax.Array:
    """Returns float32 [B, T, width]: sines in the even dimensions, cosines in the odd ones, as in section 3.5; or sines
    in the first half and cosines in the second, as in Marian."""
    half = jnp.arange(width // 2, dtype=jnp.float32)
    angles = positions[..., None].astype(jnp.float32) * 10000.0 ** (-2 * half / width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -2 if sines_first else -1).reshape(*positions.shape, width)
