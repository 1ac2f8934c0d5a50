# SPDX-License-Identifier: Apache-2.0
"""One causal layer, an LSTM or attention: the time of its tokens, and how much its last output still owes its first."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.kinds import layer_of
from t5x_like.models.layers.parameters import call, initialise, record_specs
from t5x_like.models.layers.recurrent import Recurrent, empty_state
from t5x_like.training.startup import configure_jax

WIDTH, HEADS = 256, 4
Layer = Callable[[Any, jax.Array], jax.Array]


def layer_and_params(kind: str, batch: int, length: int) -> tuple[Layer, Any]:
    """A function (parameters, x [B, T, WIDTH]) -> [B, T, WIDTH] and drawn parameters; "lstm" or "attention"."""
    if kind == "lstm":
        module: Any = Recurrent("lstm", WIDTH, WIDTH)
        more: Any = (
            empty_state("lstm", batch, WIDTH),
            jnp.zeros((batch, length), bool),
            jnp.ones((batch, length), bool),
        )
    else:
        module = layer_of(None)(WIDTH, HEADS, HEADS, WIDTH // HEADS, "none", kind=None, max_length=length)
        more = (None,)
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    ctx = Context(positions=positions, mask=MaskSpec(causal=True), one_cpu=jax.default_backend() == "cpu")
    x: Any = jax.ShapeDtypeStruct((batch, length, WIDTH), jnp.float32)
    params = initialise(record_specs(module, x, ctx, *more), jax.random.key(0))
    return lambda params, x: call(module, params, x, ctx, *more)[0], params


def training(kind: str, length: int, tokens: int = 8192) -> tuple[Callable[[int], None], int]:
    """A contender for `turns.measure`: forward and backward of so many tokens in rows of a length."""
    configure_jax()
    layer, params = layer_and_params(kind, tokens // length, length)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((tokens // length, length, WIDTH)), jnp.float32)
    gradient = jax.jit(jax.value_and_grad(lambda p, x: jnp.sum(jnp.square(layer(p, x))), argnums=(0, 1)))

    def work(repeats: int) -> None:
        for _ in range(repeats):
            jax.block_until_ready(gradient(params, x))

    return work, tokens


def reach(kind: str, distance: int, draws: int = 8) -> float:
    """The derivative of a row's last output by the token `distance` before it, over that by the last token itself.

    Root mean squares over random directions of the output, at drawn parameters and Gaussian inputs.
    """
    length = distance + 1
    layer, params = layer_and_params(kind, draws, length)
    x = jax.random.normal(jax.random.key(1), (draws, length, WIDTH))
    _, pull = jax.vjp(lambda x: layer(params, x)[:, -1], x)
    (slope,) = pull(jax.random.normal(jax.random.key(2), (draws, WIDTH)))
    sizes = jnp.sqrt(jnp.square(slope).mean((0, 2)))
    return float(sizes[0] / sizes[-1])
