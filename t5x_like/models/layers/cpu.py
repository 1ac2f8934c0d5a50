# SPDX-License-Identifier: Apache-2.0
"""What XLA:CPU has to be told, in one place; TPU and GPU never come here."""

import jax


def logits_from_table(hidden: jax.Array, table: jax.Array) -> jax.Array:
    """hidden [B, T, D] times a tied table [V, D], transposed: [B, T, V].

    On two-dimensional operands with the transposed table and the product held materialised. Left to itself, XLA:CPU
    computes the exponentials of the loss anew in both products of the backward pass: a training step of a one-layer
    model of width 16 over 2,048 tokens took 1.6 times as long, of width 128 1.2 times.
    """
    barrier = jax.lax.optimization_barrier
    logits = barrier(hidden.reshape(-1, hidden.shape[-1]) @ barrier(table.astype(hidden.dtype).T))
    return logits.reshape(*hidden.shape[:-1], table.shape[0])
