# SPDX-License-Identifier: Apache-2.0
"""Causal attention alone, forward and backward: time, and what it needs of memory beside its arguments."""

from collections.abc import Callable
from typing import Any

HEADS, WIDTH = 8, 64
MOST = 12 * 2**30  # bytes of temporaries that are still run


def _compiled(length: int, impl: str) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    from t5x_like.models.context import MaskSpec
    from t5x_like.models.layers.attention import attend

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.square(attend(q, k, v, mask=MaskSpec(causal=True), impl=impl)).sum()

    keys = jax.random.split(jax.random.key(0), 3)
    operands = [jax.random.normal(key, (1, length, HEADS, WIDTH)) for key in keys]
    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*operands).compile(), operands


def temporaries(*, length: int, impl: str) -> int:
    """Bytes, by the compiler's own count."""
    return int(_compiled(length, impl)[0].memory_analysis().temp_size_in_bytes)


def forward_and_backward(*, length: int, impl: str) -> tuple[Callable[[int], None], int]:
    """Returns `work(calls)` and 1.

    Raises:
      MemoryError: it would need more than `MOST`.
    """
    import jax

    compiled, operands = _compiled(length, impl)
    needed = compiled.memory_analysis().temp_size_in_bytes
    if needed > MOST:
        raise MemoryError(f"needs {needed / 2**30:.0f} GiB")

    def work(calls: int) -> None:
        for _ in range(calls):
            jax.block_until_ready(compiled(*operands))

    return work, 1
