# SPDX-License-Identifier: Apache-2.0
"""Positions: rotary (Su et al. 2021) and sinusoidal (Vaswani et al. 2017). Learned ones are an embedding table."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.config.models.rope import RopeScalingConfig


@dataclass(frozen=True)
class Rotary:
    """Turns pairs of a head's first `dim` dimensions, of all of them where that is None.

    Differs from the paper: pairs are dim/2 apart, the order that LLaMA's published weights in the Hugging Face format
    have, unless they are to be `neighbours`; the two differ by a permutation of the head's dimensions.
    """

    theta: float
    scaling: RopeScalingConfig | None = None
    dim: int | None = None
    neighbours: bool = False

    def turned(self, x: jax.Array, positions: jax.Array, again: bool = False) -> jax.Array:
        """Turns pair i of heads [B, T, heads, C] by the angle position * theta^(-2i/dim). `again`: heads that have been
        turned before, by so many positions more."""
        dim = self.dim or x.shape[-1]
        frequencies, size = rotary_frequencies(dim // 2, self.theta, self.scaling)
        size = 1.0 if again else size
        angles = positions[..., None, None].astype(jnp.float32) * frequencies  # [B, T, 1, dim/2]
        cos, sin = size * jnp.cos(angles), size * jnp.sin(angles)
        wide = x[..., :dim].astype(jnp.float32)
        a, b = (wide[..., ::2], wide[..., 1::2]) if self.neighbours else jnp.split(wide, 2, axis=-1)
        ends = a * cos - b * sin, b * cos + a * sin
        out = jnp.stack(ends, axis=-1).reshape(wide.shape) if self.neighbours else jnp.concatenate(ends, axis=-1)
        return jnp.concatenate([out.astype(x.dtype), x[..., dim:]], axis=-1)


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
