# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token from logits: greedy, temperature, top-k, top-p."""

import flax.struct
import jax
import jax.numpy as jnp

from t5x_like.errors import UserError


@flax.struct.dataclass
class Sampling:
    """How a token is chosen. All are run-time values: changing one, but for switching it on or off, compiles nothing.

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
        for name, fine, accepted in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not fine:
                raise UserError(f"{name}={getattr(self, name)}: expected {accepted}")
        return self

    def kind(self) -> str:
        """What has to be compiled: "greedy", "free", or "cut" where top-k or top-p needs the vocabulary sorted."""
        if self.temperature == 0:
            return "greedy"
        return "free" if self.top_k == 0 and self.top_p == 1 else "cut"


def sample(logits: jax.Array, sampling: Sampling, keys: jax.Array, kind: str = "cut") -> jax.Array:
    """Draws a token for every row of float32 logits [B, V] by that row's key of keys [B]; int32 [B].

    `kind` is `sampling.kind()`, which must be known while this is traced: greedy decoding then sorts nothing.
    """
    if kind == "greedy":
        return logits.argmax(-1).astype(jnp.int32)
    scaled = logits / sampling.temperature
    if kind == "cut":
        scaled = jnp.where(scaled >= lowest_kept(scaled, sampling), scaled, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)


def lowest_kept(scaled: jax.Array, sampling: Sampling) -> jax.Array:
    """The smallest of the logits [B, V] that top-k and top-p leave, [B, 1]; what equals it is left too.

    Top-p looks at the probabilities that temperature and top-k leave, as Hugging Face's `generate` does.
    """
    vocab = scaled.shape[-1]
    ordered = -jnp.sort(-scaled, axis=-1)
    rank = jnp.arange(vocab)
    k = jnp.where(sampling.top_k > 0, sampling.top_k, vocab)
    probabilities = jax.nn.softmax(jnp.where(rank < k, ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = (rank < k) & ((before < sampling.top_p) | (rank == 0))
    return jnp.where(kept, ordered, jnp.inf).min(-1, keepdims=True)
