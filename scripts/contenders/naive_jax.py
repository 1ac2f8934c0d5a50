# SPDX-License-Identifier: Apache-2.0
"""A GPT training step as one writes it in JAX in an afternoon: the yardstick for what our own step gains.

Same model as `torch_gpt.py`: pre-norm, learned positions, exact GELU, no biases, tied embeddings, AdamW, clipping at 1.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def training_step(
    *, width: int, layers: int, heads: int, length: int, batch: int, vocab: int, dtype: str = "float32"
) -> tuple[Callable[[int], None], int]:
    """Returns `work(steps)` and the tokens of a step."""
    generator = np.random.default_rng(0)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(generator.normal(0, 0.02, shape), jnp.float32)

    params: dict[str, Any] = {"tokens": draw(vocab, width), "positions": draw(length, width), "norm": jnp.ones(width)}
    for i in range(layers):
        params[f"layer_{i}"] = {
            "norm_1": jnp.ones(width),
            "norm_2": jnp.ones(width),
            "qkv": draw(width, 3 * width),
            "out": draw(width, width),
            "up": draw(width, 4 * width),
            "down": draw(4 * width, width),
        }
    mask = jnp.tril(jnp.ones((length, length), bool))

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return (x * scale).astype(dtype)

    def block(x: jax.Array, p: dict[str, jax.Array]) -> jax.Array:
        q, k, v = jnp.split(norm(x, p["norm_1"]) @ p["qkv"].astype(dtype), 3, axis=-1)
        q, k, v = (y.reshape(batch, length, heads, width // heads) for y in (q, k, v))
        scores = jnp.einsum("bthc,bshc->bhts", q, k) / math.sqrt(width // heads)
        weights = jax.nn.softmax(jnp.where(mask, scores.astype(jnp.float32), -jnp.inf), axis=-1).astype(dtype)
        x = x + jnp.einsum("bhts,bshc->bthc", weights, v).reshape(x.shape) @ p["out"].astype(dtype)
        hidden = jax.nn.gelu(norm(x, p["norm_2"]) @ p["up"].astype(dtype), approximate=False)
        return x + hidden @ p["down"].astype(dtype)

    def loss(params: dict[str, Any], inputs: jax.Array, targets: jax.Array) -> jax.Array:
        x = (params["tokens"][inputs] + params["positions"]).astype(dtype)
        for i in range(layers):
            x = block(x, params[f"layer_{i}"])
        logits = (norm(x, params["norm"]) @ params["tokens"].T.astype(dtype)).astype(jnp.float32)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1).mean()

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, b2=0.95, weight_decay=0.1))

    @jax.jit
    def step(params: Any, state: Any, inputs: jax.Array, targets: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, inputs, targets)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    batches = generator.integers(0, vocab, (8, batch, length + 1))

    def work(steps: int) -> None:
        nonlocal params, state
        value = None
        for i in range(steps):
            tokens = batches[i % len(batches)]
            params, state, value = step(params, state, tokens[:, :-1], tokens[:, 1:])
        jax.block_until_ready(value)

    return work, batch * length
