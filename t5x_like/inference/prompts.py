# SPDX-License-Identifier: Apache-2.0
"""Prompts as a batch, checked, and padded to few different shapes; and the cache that grows behind them."""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.data.images import Pictured
from t5x_like.errors import UserError
from t5x_like.inference.constraints import Constraints
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes, Encodes

Prompts = Sequence[Sequence[int]]
_MOST_IN_ONE_LOOP = 64  # new tokens; fewer are not worth compiling another loop, which takes a second or two


def check_prompts(
    model: Decodes, prompts: Prompts, max_new_tokens: int, stop_tokens: Sequence[int], constraints: Constraints
) -> None:
    """Refuses what the model cannot continue, in one line. Raises UserError: an empty prompt, a token that the model
    lacks, no token to add, or more positions than a learned table has."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise UserError("prompt: is empty; expected at least one token")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens}: expected 1 or more")
    named = {"stop_tokens": stop_tokens} | constraints.check(max_new_tokens)
    for name, tokens in [*named.items(), *(("prompt", prompt) for prompt in prompts)]:
        for token in tokens:
            if not 0 <= token < model.vocab_size:
                raise UserError(f"{name}: no token {token}; the model has 0 to {model.vocab_size - 1}")
    for prompt in prompts:
        _check_images(model, prompt)
    most, length = model.max_length, max(len(prompt) for prompt in prompts)
    if most is None:
        return
    if isinstance(model, Encodes):
        if length > most:
            raise UserError(f"prompt: {length} tokens are more than the model's {most} positions")
        length = 1  # what is decoded begins with a start token
    if length + max_new_tokens > most:
        raise UserError(
            f"max_new_tokens={max_new_tokens}: with a prompt of {length} tokens that is more than the model's "
            f"{most} positions; accepted: at most {max(0, most - length)}"
        )


def _check_images(model: Decodes, prompt: Sequence[int]) -> None:
    """Refuses images that no tokens stand for, or the other way round."""
    config, images = model.config, len(prompt.images) if isinstance(prompt, Pictured) else 0
    each = getattr(config, "tokens_per_image", 0)
    if images and not each:
        raise UserError(f"prompt: {images} images, but model.kind={config.kind!r} sees none; accepted: 0")
    if each and (there := list(prompt).count(config.image_token)) != images * each:
        raise UserError(f"prompt: {there} image tokens for {images} images; accepted: {each} for each")


def rounded_up(length: int) -> int:
    """The next length, of few, so that a new length seldom compiles anew: 16, 32, 48, 64, 80, 96, 112, 128, 160, ...

    A multiple of 16 and of a quarter of the power of two below: at most a quarter is wasted above 64.
    """
    step = max(16, 2 ** (length.bit_length() - 1) // 4)
    return -(-length // step) * step


def as_batch(model: Decodes, prompts: Prompts) -> dict[str, jax.Array]:
    """Prompts as a model reads them: an encoder's input, decoded from a start token on; or the text to go on with."""
    if (in_front := getattr(model, "in_front", None)) is not None:
        prompts = [in_front(list(prompt)) for prompt in prompts]
    length = rounded_up(max(map(len, prompts)))
    if not isinstance(model, Encodes):
        return left_padded(prompts, length) | _images(prompts)
    tokens, segments = np.zeros((2, len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)], segments[row, : len(prompt)] = prompt, 1
    start = left_padded([[model.start_token]] * len(prompts), 1)
    return {"encoder_input_tokens": jnp.asarray(tokens), "encoder_segment_ids": jnp.asarray(segments), **start}


def _images(prompts: Prompts) -> dict[str, jax.Array]:
    """Those of all prompts, [B, I, height, width, channels], as many as that which has most."""
    of_row = {row: prompt.images for row, prompt in enumerate(prompts) if isinstance(prompt, Pictured)}
    most = max(map(len, of_row.values()), default=0)
    if not most:
        return {}
    images = np.zeros((len(prompts), most, *next(iter(of_row.values())).shape[1:]), np.float32)
    real = np.zeros((len(prompts), most), np.int32)
    for row, own in of_row.items():
        images[row, : len(own)], real[row, : len(own)] = own, 1
    return {"images": jnp.asarray(images), "images_segment_ids": jnp.asarray(real)}


def empty_cache_for(model: Decodes, batch: dict[str, jax.Array], new: int, dtype: Any) -> Params:
    """A cache for a batch of prompts and `new` tokens more."""
    rows, length = batch["decoder_input_tokens"].shape
    memory = next((batch[name].shape[1] for name in ("encoder_input_tokens", "images") if name in batch), 0)
    return model.init_cache(rows, length + new, dtype, memory)


def rooms(prompt_length: int, new: int, ctx: Context, beams: int = 1) -> tuple[int, ...]:
    """For how many of `new` tokens a prompt, or each of its beams, there is room in each loop; in the last for all.

    A step attends to all slots of its cache, so those that are used much later had better not be there yet: the
    compiled call has one loop after another, each with a longer cache. There are two where
    the first can do without a third of the slots or more. Only on a CPU: elsewhere it has not been measured, and
    memory, which while the cache grows holds both, is dear.
    """
    half = -(-new // 32) * 16
    saves = 3 * (prompt_length + beams * half) <= 2 * (prompt_length + beams * new)
    return (half, new) if ctx.one_cpu and new > _MOST_IN_ONE_LOOP and saves else (new,)


def lengthened(model: Decodes, cache: Params, length: int) -> Params:
    """A cache of `length` slots that holds what `cache` does."""
    rows, memory = cache["segment_ids"].shape[0], cache.get("memory_segments")
    longer = model.init_cache(rows, length, encoder_length=0 if memory is None else memory.shape[1])

    def write(longer: jax.Array, held: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(longer.astype(held.dtype), held, (0,) * held.ndim)

    return {**cache, **{name: jax.tree.map(write, longer[name], cache[name]) for name in longer if name != "index"}}


def left_padded(prompts: Prompts, length: int) -> dict[str, jax.Array]:
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


def row_keys(prompts: Prompts, num_samples: int, seed: int) -> jax.Array:
    """A key for every sample of every prompt, [P * num_samples], from the seed, the prompt and the sample's number.

    So what is drawn for a prompt does not depend on the prompts beside it, nor on how many there are.
    """
    names = [zlib.crc32(np.asarray(prompt, np.int64).tobytes()) for prompt in prompts]
    fold = jax.vmap(jax.random.fold_in, (0, 0))
    keys = fold(jnp.repeat(jax.random.key(seed)[None], len(prompts)), jnp.asarray(names, jnp.uint32))
    samples = jnp.tile(jnp.arange(num_samples, dtype=jnp.uint32), len(prompts))
    return fold(jnp.repeat(keys, num_samples), samples)
