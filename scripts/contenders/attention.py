# SPDX-License-Identifier: Apache-2.0
"""One causal attention, forward and backward, on a single device: its time and its temporaries by length."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.benchmarks.packed_rows import packed_rows
from t5x_like.models.context import Marks, MaskSpec
from t5x_like.models.layers.attention import attend
from t5x_like.training.startup import configure_jax

MOST = 12 * 2**30  # bytes of temporaries that are still run


def naive(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """The equation as one writes it: q, k, v [B, T, H, C]."""
    logits = jnp.einsum("BTHC,BSHC->BHTS", q, k) / np.sqrt(q.shape[-1])
    logits = jnp.where(jnp.tril(jnp.ones(logits.shape[2:], bool)), logits, -jnp.inf)
    return jnp.einsum("BHTS,BSHC->BTHC", jax.nn.softmax(logits, axis=-1), v)


def compiled(
    impl: str,
    *,
    length: int,
    batch: int = 1,
    heads: int = 8,
    width: int = 64,
    segments: int = 1,
    dtype: str = "float32",
) -> tuple[Any, list[jax.Array]]:
    """The compiled value and gradients, and operands for it; `impl` as for `attend`, or "naive"."""
    mask = MaskSpec()
    if segments > 1:
        marks = Marks(jnp.asarray(packed_rows(batch, length, segments)["decoder_segment_ids"]))
        mask = MaskSpec(q=marks, kv=marks)
    one_cpu = jax.default_backend() == "cpu"

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if impl == "naive":
            return naive(q, k, v)
        return attend(q, k, v, mask=mask, impl=impl, one_cpu=one_cpu)

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(attention(q, k, v) * weights)

    generator = np.random.default_rng(0)
    shape = (batch, length, heads, width)
    operands = [jnp.asarray(generator.standard_normal(shape), dtype) for _ in range(4)]
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*operands).compile(), operands


def temporaries(impl: str, **shape: Any) -> float:
    """MiB that the compiled program allocates beside its operands and results; nothing is run."""
    program, _ = compiled(impl, **shape)
    return float(program.memory_analysis().temp_size_in_bytes) / 2**20


def attention(impl: str, **shape: Any) -> tuple[Callable[[int], None], int]:
    """A contender for `turns.measure`: returns `work(repeats)` and the tokens of a repeat.

    Raises:
      MemoryError: it would need more than `MOST`.
    """
    if impl != "naive":
        configure_jax()
    program, operands = compiled(impl, **shape)
    needed = program.memory_analysis().temp_size_in_bytes
    if needed > MOST:
        raise MemoryError(f"would need {needed / 2**30:.0f} GiB")

    def work(repeats: int) -> None:
        for _ in range(repeats):
            jax.block_until_ready(program(*operands))

    return work, operands[0].shape[0] * operands[0].shape[1]
