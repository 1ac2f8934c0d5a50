# SPDX-License-Identifier: Apache-2.0
"""The streams of a batch: each has tokens, and maybe segment ids, positions, a prefix, global tokens, named after it.

encoder_input_tokens   encoder_segment_ids   encoder_positions   encoder_global_tokens
decoder_input_tokens   decoder_segment_ids   decoder_positions   decoder_causal_attention
text_tokens            text_segment_ids      text_positions      of captions
"""

import jax
import jax.numpy as jnp

from t5x_like.models.context import Context, Marks, MaskSpec
from t5x_like.models.layers.parameters import Params


def tokens_of(stream: str) -> str:
    """What the tokens of a stream are called."""
    return "text_tokens" if stream == "text" else f"{stream}_input_tokens"


def real(batch: dict[str, jax.Array], stream: str) -> jax.Array:
    """Which tokens of a stream are no padding, bool [B, T]; of images, which of a row's."""
    if f"{stream}_segment_ids" in batch:
        return batch[f"{stream}_segment_ids"] > 0
    if stream != "images":
        return jnp.ones_like(batch[tokens_of(stream)], bool)
    images = batch["images"]
    return jnp.ones((len(images), 1 if images.ndim == 4 else images.shape[1]), bool)


def running(
    ctx: Context, batch: dict[str, jax.Array], stream: str, *, causal: bool, cache: Params | None = None
) -> tuple[Context, Params | None]:
    """The context of a stack that runs a stream: its positions and its mask.

    Absent segment ids mean 1 everywhere, absent positions 0 to T - 1, continued from the cache. `*_causal_attention` is
    1 on `Marks.prefix`, `*_global_tokens` on `Marks.everywhere`, `*_prompt_tokens` on `Marks.shared`. Of a cache the
    slots of this call are marked as filled; a call that is known to be the first attends to its own keys alone.
    """
    tokens = batch[tokens_of(stream)]
    segments, positions = batch.get(f"{stream}_segment_ids"), batch.get(f"{stream}_positions")
    start: jax.Array | int = 0 if cache is None else cache["index"]
    if positions is None:
        positions = jnp.broadcast_to(start + jnp.arange(tokens.shape[1]), tokens.shape)
    if cache is not None and segments is None:
        segments = jnp.ones_like(tokens)
    named = {"prefix": "causal_attention", "everywhere": "global_tokens", "shared": "prompt_tokens"}
    given = {mark: batch[f"{stream}_{name}"] > 0 for mark, name in named.items() if f"{stream}_{name}" in batch}
    q = kv = Marks(segments, **given)
    kv_positions = None
    if cache is not None:
        assert segments is not None and positions is not None
        filled = {"segment_ids": segments, "positions": positions}
        slots = {
            name: jax.lax.dynamic_update_slice(cache[name], filled[name].astype(cache[name].dtype), (0, start))
            for name in filled
            if name in cache
        }
        cache = {**cache, **slots}
        kv_positions = slots.get("positions")
        if not (isinstance(start, int) and start == 0):
            kv = Marks(slots["segment_ids"])
    allowed = None if cache is None else ctx.mask.allowed
    mask = MaskSpec(causal=causal, q=q, kv=kv, offset=start, allowed=allowed)
    return ctx.replace(positions=positions, kv_positions=kv_positions, mask=mask), cache
