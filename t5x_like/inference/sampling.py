# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token from logits: greedy, temperature, top-k, top-p."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from t5x_like.errors import UserError


@flax.struct.dataclass
class Sampling:
    """How a token is chosen. All are run-time values: changing one compiles nothing.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: keep the k likeliest tokens (Fan et al. 2018); 0 keeps all.
      top_p: keep the fewest likeliest tokens whose probabilities reach p (nucleus sampling, Holtzman et al. 2020); 1
        keeps all.
    """

    temperature: float | jax.Array = 1.0
    top_k: int | jax.Array = 0
    top_p: float | jax.Array = 1.0

    def check(self) -> "Sampling":
        """Refuses what makes no sense, in one line."""
        accepted = {
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
        }
        for field in dataclasses.fields(self):
            fine, words = accepted[field.name]
            if not fine:
                raise UserError(f"{field.name}={getattr(self, field.name)}: expected {words}")
        return self


def sample(logits: jax.Array, sampling: Sampling, key: jax.Array) -> jax.Array:
    """Draws a token for every row of float32 logits [B, V]; int32 [B].

    Top-p looks at the probabilities that temperature and top-k leave, as Hugging Face's `generate` does.
    """
    vocab = logits.shape[-1]
    greedy = logits.argmax(-1)
    scaled = logits / jnp.maximum(sampling.temperature, 1e-6)
    ranked = jnp.argsort(-scaled, axis=-1)
    ordered = jnp.take_along_axis(scaled, ranked, axis=-1)
    k = jnp.where(sampling.top_k > 0, sampling.top_k, vocab)
    ordered = jnp.where(jnp.arange(vocab) < k, ordered, -jnp.inf)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    ordered = jnp.where((before < sampling.top_p) | (jnp.arange(vocab) == 0), ordered, -jnp.inf)
    choice = jax.random.categorical(key, ordered, axis=-1)
    drawn = jnp.take_along_axis(ranked, choice[:, None], axis=-1)[:, 0]
    return jnp.where(sampling.temperature == 0, greedy, drawn).astype(jnp.int32)
