# SPDX-License-Identifier: Apache-2.0
"""Generation through a key/value cache: one pass over the prompts, then a token at a time, in one compiled call."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import UserError
from t5x_like.inference.sampling import Sampling, sample
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: Sampling = Sampling(temperature=0.0),
    stop_token: int | None = None,
    seed: int = 0,
    ctx: Context | None = None,
) -> list[list[int]]:
    """Continues every prompt.

    Args:
      model, params: a decoder-only model.
      prompts: token ids; they may differ in length, none may be empty.
      max_new_tokens: at most so many tokens are added to each.
      sampling: how tokens are chosen; greedy by default.
      stop_token: ends a continuation; it is not part of the result.
      seed: the same seed gives the same tokens.
      ctx: execution, as for `model.apply`.

    Returns:
      The new tokens of each prompt.

    Raises:
      UserError: an empty prompt, or more positions than a learned table has.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise UserError("prompt: is empty; expected at least one token")
    length = max(len(prompt) for prompt in prompts)
    if model.max_length is not None and length + max_new_tokens > model.max_length:
        raise UserError(
            f"max_new_tokens={max_new_tokens}: with a prompt of {length} tokens that is more than the model's "
            f"{model.max_length} positions; accepted: at most {max(0, model.max_length - length)}"
        )
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens}: expected 1 or more")
    sampling = sampling.check()
    batch = left_padded(prompts, length)
    stop = -1 if stop_token is None else stop_token
    new = _generate(model, max_new_tokens, ctx or Context(), params, batch, sampling, stop, jax.random.key(seed))
    rows = [[int(token) for token in row] for row in np.asarray(new)]
    return [row[: row.index(stop)] if stop in row else row for row in rows]


def left_padded(prompts: Sequence[Sequence[int]], length: int) -> dict[str, jax.Array]:
    """Prompts as a batch whose rows end together.

        tokens       0  0 17 18      positions    0  0  0  1      segment ids  0  0  1  1
                     5  6  7  8                   0  1  2  3                   1  1  1  1

    So one slot of the cache is the next for all of them.
    """
    tokens = np.zeros((len(prompts), length), np.int32)
    segments = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        segments[row, length - len(prompt) :] = 1
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    return {
        "decoder_input_tokens": jnp.asarray(tokens),
        "decoder_segment_ids": jnp.asarray(segments),
        "decoder_positions": jnp.asarray(positions),
    }


@partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    model: Model,
    max_new_tokens: int,
    ctx: Context,
    params: Params,
    batch: dict[str, jax.Array],
    sampling: Sampling,
    stop: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """int32 [B, max_new_tokens]; rows that have stopped are filled with `stop`."""
    prompt = batch["decoder_input_tokens"]
    cache = model.init_cache(prompt.shape[0], prompt.shape[1] + max_new_tokens, ctx.policy.compute)
    outputs = model.apply(params, batch, cache=cache, want=("hidden",), ctx=ctx)
    unembedding = model.unembedding(params)

    def choose(hidden: jax.Array, number: jax.Array, stopped: jax.Array) -> jax.Array:
        logits = model.unembed(unembedding, hidden[:, -1:], ctx)[:, 0]
        return jnp.where(stopped, stop, sample(logits, sampling, jax.random.fold_in(key, number)))

    def unfinished(carry: Any) -> jax.Array:
        number, _, _, _, stopped, _ = carry
        return (number < max_new_tokens) & ~stopped.all()

    def advance(carry: Any) -> Any:
        number, token, position, cache, stopped, new = carry
        batch = {"decoder_input_tokens": token[:, None], "decoder_positions": position[:, None]}
        outputs = model.apply(params, batch, cache=cache, want=("hidden",), ctx=ctx)
        token = choose(outputs["hidden"], number, stopped)
        return (
            number + 1,
            token,
            position + 1,
            outputs["cache"],
            stopped | (token == stop),
            new.at[:, number].set(token),
        )

    stopped = jnp.zeros(prompt.shape[0], bool)
    token = choose(outputs["hidden"], jnp.int32(0), stopped)
    new = jnp.full((prompt.shape[0], max_new_tokens), stop, jnp.int32).at[:, 0].set(token)
    start = (jnp.int32(1), token, batch["decoder_positions"][:, -1] + 1, outputs["cache"], token == stop, new)
    return jax.lax.while_loop(unfinished, advance, start)[-1]
