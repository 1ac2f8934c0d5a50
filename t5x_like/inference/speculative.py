# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding (Leviathan et al. 2023): a small model drafts tokens, the large one reads them all in one pass.

A drafted token x is kept with probability min(1, p(x) / q(x)), p being the model's and q the draft's distribution;
instead of the first that is not, one is drawn from max(p - q, 0), normalised. So what comes out is distributed as the
model's own samples, whatever the draft, and greedily it is the same text.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import UserError
from t5x_like.inference.constraints import Constraints
from t5x_like.inference.prompts import as_batch, check_prompts, rounded_up
from t5x_like.inference.sampling import Sampling, lowest_kept
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes, Encodes, able

Pair = tuple[Decodes, Decodes]


def speculate(
    models: tuple[Any, Any],
    params: tuple[Params, Params],
    prompt: list[int],
    max_new_tokens: int,
    *,
    ahead: int = 4,
    sampling: Sampling = Sampling(temperature=0.0),
    stop_tokens: tuple[int, ...] = (),
    seed: int = 0,
    ctx: Context | None = None,
) -> tuple[list[int], int]:
    """Continues a prompt with `models[0]`, by drafts of `ahead` tokens of `models[1]`, which has the same vocabulary.

    Returns:
      The new tokens, without the stop token, and how many passes of the model they took.

    Raises:
      UserError: what `generate` refuses, or models that no draft can be taken back from.
    """
    model, draft = pair = (able(models[0], Decodes, "generation"), able(models[1], Decodes, "a draft"))
    if model.vocab_size != draft.vocab_size or ahead < 1:
        raise UserError(f"draft: {draft.vocab_size} tokens, {ahead} ahead; accepted: {model.vocab_size}, 1 or more")
    for each in pair:
        check_prompts(each, [prompt], max_new_tokens + ahead, stop_tokens, Constraints())
        if not each.shares_cache or isinstance(each, Encodes):
            raise UserError(f"model.kind={each.config.kind!r}: its cache cannot go back; accepted: softmax decoders")
    ctx, kind = (ctx or Context()).replace(train=False, key=None), sampling.check().kind()
    values = Sampling(jnp.float32(sampling.temperature), jnp.int32(sampling.top_k), jnp.float32(sampling.top_p))
    params = _for_decoding(pair, ctx, params)
    batches, key = [as_batch(each, [prompt]) for each in pair], jax.random.key(seed)
    room, first = rounded_up(max_new_tokens + ahead + 1), jax.random.fold_in(key, 0)
    state, token = _begin(pair, ctx, room, kind, params, batches, values, first)
    tokens, passes = [int(token)], 1
    while len(tokens) < max_new_tokens and not {*stop_tokens} & {*tokens}:
        state, new, kept = _round(pair, ctx, ahead, kind, params, state, values, jax.random.fold_in(key, passes))
        tokens, passes = tokens + np.asarray(new)[: int(kept) + 1].tolist(), passes + 1
    end = next((n for n, each in enumerate(tokens) if each in stop_tokens), max_new_tokens)
    return tokens[: min(end, max_new_tokens)], passes


def probabilities(logits: jax.Array, sampling: Sampling, kind: str) -> jax.Array:
    """Of every token by logits [T, V], as `sample` draws it."""
    if kind == "greedy":
        return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1])
    scaled = logits / sampling.temperature
    return jax.nn.softmax(
        scaled if kind == "free" else jnp.where(scaled >= lowest_kept(scaled, sampling), scaled, -jnp.inf)
    )


def judged(p: jax.Array, q: jax.Array, drafted: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many of the drafted tokens [T] are kept, and what follows them, by p [T + 1, V] and q [T, V]."""
    coin, draw = jax.random.split(key)
    chosen = jnp.arange(len(drafted)), drafted
    right = jax.random.uniform(coin, drafted.shape) * q[chosen] < p[:-1][chosen]
    kept = jnp.cumprod(right).sum()
    left = jnp.maximum(p[kept] - jnp.append(q, jnp.zeros_like(p[:1]), axis=0)[kept], 0)
    return kept, jax.random.categorical(draw, jnp.log(left)).astype(jnp.int32)


def _read(model: Decodes, ctx: Context, params: Params, state: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
    """Logits [T, V] behind each of the tokens [T]."""
    batch = {
        "decoder_input_tokens": tokens[None],
        "decoder_positions": state["position"] + jnp.arange(len(tokens))[None],
    }
    outputs = model.apply(params, batch, cache=state["cache"], want=("hidden",), ctx=ctx)
    logits = model.unembed(model.unembedding(params), outputs["hidden"], ctx)[0]
    return logits, {"cache": outputs["cache"], "position": state["position"] + len(tokens)}


@partial(jax.jit, static_argnums=(0, 1))
def _for_decoding(pair: Pair, ctx: Context, params: Any) -> Any:
    return tuple(model.for_decoding(own, ctx) for model, own in zip(pair, params, strict=True))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _begin(pair: Pair, ctx: Context, room: int, kind: str, params: Any, batches: Any, how: Any, key: Any) -> Any:
    states: list[Any] = []
    for model, own, batch in reversed([*zip(pair, params, batches, strict=True)]):
        cache = model.init_cache(1, batch["decoder_input_tokens"].shape[1] + room, ctx.policy.compute)
        outputs = model.apply(own, batch, cache=cache, want=("hidden",), ctx=ctx)
        cache = {**outputs["cache"], "index": jnp.int32(outputs["cache"]["index"])}
        states.insert(0, {"cache": cache, "position": batch["decoder_positions"][0, -1] + 1})
    logits = model.unembed(model.unembedding(own), outputs["hidden"][:, -1:], ctx)[0]
    token = jax.random.categorical(key, jnp.log(probabilities(logits, how, kind)[0])).astype(jnp.int32)
    return (*states, token), token


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _round(pair: Pair, ctx: Context, ahead: int, kind: str, params: Any, state: Any, how: Any, key: Any) -> Any:
    """Drafts, reads and judges; the caches go back to what was kept."""
    (model, draft), (own, of_draft), (before, drafting, last) = pair, params, state
    start, key = drafting, jax.random.split(key)

    def guess(carry: Any, key: jax.Array) -> Any:
        drafting, token = carry
        logits, drafting = _read(draft, ctx, of_draft, drafting, token[None])
        q = probabilities(logits, how, kind)[0]
        token = jax.random.categorical(key, jnp.log(q)).astype(jnp.int32)
        return (drafting, token), (token, q)

    # One more than needed, so that the last of them is in the draft's cache, too.
    (drafting, _), (drafted, q) = jax.lax.scan(guess, (drafting, last), jax.random.split(key[0], ahead + 1))
    logits, after = _read(model, ctx, own, before, jnp.append(last, drafted[:ahead]))
    kept, token = judged(probabilities(logits, how, kind), q[:ahead], drafted[:ahead], key[1])

    def back(state: Any, before: Any) -> Any:
        cache = {**state["cache"], "index": before["cache"]["index"] + kept + 1}
        return {"cache": cache, "position": before["position"] + kept + 1}

    return (back(after, before), back(drafting, start), token), jnp.append(drafted[:ahead], 0).at[kept].set(token), kept
