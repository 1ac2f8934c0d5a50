# SPDX-License-Identifier: Apache-2.0
"""Biases of attention: numbers added to its logits that depend on how far a key is from the query.

A bias is a function of that distance and a few weights, so no [T, S] array of it is kept: every implementation of
attention computes the part that it is at, and adds up the gradient of the weights.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp


class Bias(flax.struct.PyTreeNode):
    """What all kinds are."""

    weights: jax.Array  # the last dimension counts query heads

    def of(self, distance: jax.Array) -> jax.Array:
        """[N, T, S], index or position of a key minus that of the query, to the bias [N, H, T, S]."""
        raise NotImplementedError


class RelativeBias(Bias):
    """T5's relative position bias (Raffel et al. 2020, section 2.1): a learned number for every bucket of distances.

    Half of the buckets hold one distance each, the others distances in a geometric progression up to `max_distance`,
    and the last all that are greater. Where keys ahead may be seen, half of all buckets are theirs. The formula is that
    of the T5 code, which the paper only outlines. `weights` are [buckets, H].
    """

    bidirectional: bool = flax.struct.field(pytree_node=False, default=True)
    max_distance: int = flax.struct.field(pytree_node=False, default=128)

    def of(self, distance: jax.Array) -> jax.Array:
        rows = jnp.take(self.weights, self.bucket(distance), axis=0)  # [N, T, S, H]
        return jnp.moveaxis(rows, -1, 1)

    def bucket(self, distance: jax.Array) -> jax.Array:
        """The number of the bucket of every distance."""
        number, first = self.weights.shape[0], jnp.zeros_like(distance)
        if self.bidirectional:
            number //= 2
            first = jnp.where(distance > 0, number, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        exact = number // 2
        ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(self.max_distance / exact)
        coarse = jnp.minimum(exact + (ratio * (number - exact)).astype(jnp.int32), number - 1)
        return first + jnp.where(distance < exact, distance, coarse)


class LinearBias(Bias):
    """ALiBi (Press et al. 2022): a head's logits fall off linearly with the distance, by a slope of its own. `weights`
    are the slopes, [H], the paper's by `slopes`, and not trained."""

    def of(self, distance: jax.Array) -> jax.Array:
        return -jax.lax.stop_gradient(self.weights)[:, None, None] * jnp.abs(distance)[:, None]


def slopes(heads: int) -> list[float]:
    """2^(-8 i / H) for heads i = 1 to H; where H is no power of two, the next smaller one's, then every other of the
    next larger one's, as the paper's code has it."""
    power = 2 ** math.floor(math.log2(heads))
    own = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    return own + [2.0 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]


def for_rows(bias: Bias, distance: jax.Array, kv_heads: int) -> jax.Array:
    """The bias at distances [N, T, S], for rows X that share a key/value head: [N, K, X, S]."""
    values = bias.of(distance)
    return values.reshape(values.shape[0], kv_heads, -1, values.shape[-1])
