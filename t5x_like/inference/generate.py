# SPDX-License-Identifier: Apache-2.0
"""Generation through a key/value cache: one pass over the prompts, then a token at a time, in one compiled call."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import UserError
from t5x_like.inference.beam import BeamSearch, search
from t5x_like.inference.constraints import Constraints, constrained
from t5x_like.inference.prompts import (
    Prompts,
    as_batch,
    check_prompts,
    empty_cache_for,
    lengthened,
    rooms,
    rounded_up,
    row_keys,
)
from t5x_like.inference.sampling import Sampling, sample
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes, Model, able
from t5x_like.parallel.local_rows import whole

State = dict[str, Any]
GREEDY = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Generated:
    """Continuations, `num_samples` for each prompt, those of a prompt side by side.

    Attributes:
      tokens: the new tokens of each, without the stop token.
      log_probs: natural logarithms of the model's probabilities of those tokens, and of the stop token where one ended
        the row; temperature, top-k and top-p do not enter. None unless asked for, and with beams.
      scores: the sum of a row's log-probabilities; with beams divided by the length penalty. None unless there are
        log-probabilities or beams.
    """

    tokens: list[list[int]]
    log_probs: list[list[float]] | None = None
    scores: list[float] | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiled loop depends on, beside shapes."""

    model: Decodes
    ctx: Context
    rooms: tuple[int, ...]  # for new tokens, in one loop after the other; how many are made is a run-time value
    kind: str  # of sampling
    log_probs: bool  # whether they are kept


def generate(
    model: Model,
    params: Params,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    beams: BeamSearch | None = None,
    constraints: Constraints = Constraints(),
    stop_tokens: Sequence[int] = (),
    num_samples: int = 1,
    log_probs: bool = False,
    seed: int = 0,
    ctx: Context | None = None,
) -> Generated:
    """Continues every prompt.

    Args:
      model, params: a model that decodes; parameters as `model.init` or `model.for_decoding` returns them (for many
        short calls, call the latter once).
      prompts: token ids; they may differ in length, none may be empty. Of a model with an encoder they are its input,
        and what is generated begins anew.
      max_new_tokens: at most so many tokens are added to each.
      sampling: how tokens are chosen; greedy by default. Beam search does not sample.
      beams: search for likely continuations instead.
      constraints: what must or must not come next, however tokens are chosen.
      stop_tokens: any of them ends a continuation; it is not part of the result.
      num_samples: continuations for each prompt: independent samples, or the best hypotheses of the beams.
      log_probs: whether to return them.
      seed: the same seed gives a prompt the same tokens, whatever prompts are beside it, on any mesh (as far as
        rounding goes: a product over another batch may differ in its last bit).
      ctx: execution, as for `model.apply`.

    Raises:
      UserError: an empty prompt, more positions than a learned table has, or numbers that make no sense.
    """
    decodes: Decodes = able(model, Decodes, "generation")
    check_prompts(decodes, prompts, max_new_tokens, stop_tokens, constraints)
    ctx = (ctx or Context()).replace(train=False, key=None)
    if beams is not None:
        beams.check(num_samples, sampling)
        if not decodes.shares_cache:
            raise UserError(f"num_beams={beams.num_beams}: a {decodes.config.kind} model has no beams; accepted: 1")
        params = _for_decoding(decodes, ctx, params)
        filled = [*prompts, *_filling(prompts, ctx)]
        batch = as_batch(decodes, filled)
        bound = constraints.bound(batch, stop_tokens, max_new_tokens)
        tokens, lengths, scores = search(decodes, params, batch, max_new_tokens, beams, bound, stop_tokens, ctx)
        chosen = [(prompt, beam) for prompt in range(len(prompts)) for beam in range(num_samples)]
        best = [_without_stop(tokens[at][: lengths[at]].tolist(), stop_tokens) for at in chosen]
        return Generated(best, scores=[float(scores[at]) for at in chosen])
    last = max_new_tokens, sampling, constraints, stop_tokens, num_samples, log_probs, seed, ctx, max_new_tokens
    *_, (_, state) = _steps(decodes, params, prompts, *last)
    count = len(prompts) * num_samples
    lengths = whole(state["lengths"])[:count]

    def rows(name: str) -> list[list[Any]]:
        return [row[:length].tolist() for row, length in zip(whole(state[name]), lengths, strict=False)]

    new = [_without_stop(row, stop_tokens) for row in rows("tokens")]
    if not log_probs:
        return Generated(new)
    kept = rows("log_probs")
    return Generated(new, kept, [float(np.sum(row, dtype=np.float64)) for row in kept])


def generate_stream(
    model: Model,
    params: Params,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    constraints: Constraints = Constraints(),
    stop_tokens: Sequence[int] = (),
    num_samples: int = 1,
    seed: int = 0,
    chunk: int = 8,
    ctx: Context | None = None,
) -> Iterator[list[list[int]]]:
    """The tokens of `generate` as they come: yields the next up to `chunk` tokens of every row.

    The same tokens whatever the chunk, as far as rounding goes: each chunk is one compiled call, and the host is asked
    once for each. Other arguments are as for `generate`. Stop tokens are left out.
    """
    decodes: Decodes = able(model, Decodes, "generation")
    check_prompts(decodes, prompts, max_new_tokens, stop_tokens, constraints)
    if chunk < 1:
        raise UserError(f"chunk={chunk}: expected 1 or more")
    seen = 0
    ctx = (ctx or Context()).replace(train=False, key=None)
    last = max_new_tokens, sampling, constraints, stop_tokens, num_samples, False, seed, ctx, chunk
    for until, state in _steps(decodes, params, prompts, *last):
        tokens, lengths = whole(state["tokens"]), whole(state["lengths"])
        pieces = []
        for row in range(len(prompts) * num_samples):
            pieces.append(_without_stop(tokens[row, seen : min(until, lengths[row])].tolist(), stop_tokens))
        yield pieces
        seen = until


def _without_stop(row: list[int], stop_tokens: Sequence[int]) -> list[int]:
    return row[:-1] if row and row[-1] in stop_tokens else row


def _filling(prompts: Prompts, ctx: Context, num_samples: int = 1) -> Prompts:
    """Repetitions of the first prompt, so that the mesh divides the batch."""
    missing = -len(prompts) * num_samples % ctx.batch_parts
    return [prompts[0]] * missing


def _steps(
    model: Decodes,
    params: Params,
    prompts: Prompts,
    max_new_tokens: int,
    sampling: Sampling,
    constraints: Constraints,
    stop_tokens: Sequence[int],
    num_samples: int,
    log_probs: bool,
    seed: int,
    ctx: Context,
    chunk: int,
) -> Iterator[tuple[int, State]]:
    """Runs the loop, `chunk` tokens a call; yields (tokens so far, state)."""
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: expected 1 or more")
    sampling = sampling.check()
    rows = [prompt for prompt in prompts for _ in range(num_samples)]
    keys = row_keys(prompts, num_samples, seed)
    filling = _filling(prompts, ctx, num_samples)
    keys = jnp.concatenate([keys, jnp.repeat(keys[:1], len(filling))])
    batch = as_batch(model, [*rows, *filling])
    new, prompt_length = rounded_up(max_new_tokens), batch["decoder_input_tokens"].shape[1]
    # Later chunks go on with the cache that the first leaves, so it has room for all.
    room = rooms(prompt_length, new, ctx) if chunk >= max_new_tokens else (new,)
    plan = Plan(model, ctx, room, sampling.kind(), log_probs)
    stops = jnp.asarray(stop_tokens, jnp.int32)
    values = Sampling(jnp.float32(sampling.temperature), jnp.int32(sampling.top_k), jnp.float32(sampling.top_p))
    knobs = (values, constraints.bound(batch, stop_tokens, max_new_tokens), stops, keys)
    params = _for_decoding(model, ctx, params)
    until = min(chunk, max_new_tokens)
    state = _start(plan, params, batch, knobs, until)
    yield until, state
    while until < max_new_tokens and not whole(state["stopped"]).all():
        until = min(until + chunk, max_new_tokens)
        state = _resume(plan, params, state, knobs, until)
        yield until, state


@partial(jax.jit, static_argnums=(0, 1))
def _for_decoding(model: Decodes, ctx: Context, params: Params) -> Params:
    return model.for_decoding(params, ctx)


@partial(jax.jit, static_argnums=0)
def _start(plan: Plan, params: Params, batch: dict[str, jax.Array], knobs: Any, until: jax.Array) -> State:
    """Reads the prompts, and goes on until there are `until` new tokens or all rows have stopped."""
    prompt = batch["decoder_input_tokens"]
    count = prompt.shape[0]
    model, (first, *later) = plan.model, plan.rooms
    cache = empty_cache_for(model, batch, first, plan.ctx.policy.compute)
    outputs = model.apply(params, batch, cache=cache, want=("hidden",), ctx=plan.ctx)
    state: State = {
        "number": jnp.int32(0),
        "tokens": jnp.zeros((count, plan.rooms[-1]), jnp.int32),
        "lengths": jnp.zeros(count, jnp.int32),
        "stopped": jnp.zeros(count, bool),
        "position": batch["decoder_positions"][:, -1],
        "cache": {**outputs["cache"], "index": jnp.int32(outputs["cache"]["index"])},
    }
    if plan.log_probs:
        state["log_probs"] = jnp.zeros((count, plan.rooms[-1]), jnp.float32)
    unembedding = model.unembedding(params)
    state = _choose(plan, unembedding, state, outputs["hidden"][:, -1:], knobs)
    state = _run(plan, params, state, knobs, jnp.minimum(until, first))
    for room in later:
        state["cache"] = lengthened(model, state["cache"], prompt.shape[1] + room)
        state = _run(plan, params, state, knobs, jnp.minimum(until, room))
    return state


def _run(plan: Plan, params: Params, state: State, knobs: Any, until: jax.Array) -> State:
    """Goes on from a state; `_resume` is the same as a call of its own."""
    model, unembedding = plan.model, plan.model.unembedding(params)

    def unfinished(state: State) -> jax.Array:
        return (state["number"] < until) & ~state["stopped"].all()

    def advance(state: State) -> State:
        token = jax.lax.dynamic_slice_in_dim(state["tokens"], state["number"] - 1, 1, axis=1)
        batch = {"decoder_input_tokens": token, "decoder_positions": state["position"][:, None]}
        outputs = model.apply(params, batch, cache=state["cache"], want=("hidden",), ctx=plan.ctx)
        state = {**state, "cache": outputs["cache"]}
        return _choose(plan, unembedding, state, outputs["hidden"], knobs)

    return jax.lax.while_loop(unfinished, advance, state)


_resume = partial(jax.jit, static_argnums=0, donate_argnums=2)(_run)


def _choose(plan: Plan, unembedding: Params, state: State, hidden: jax.Array, knobs: Any) -> State:
    """Appends the token that follows hidden [B, 1, D]; rows that have stopped stay as they are."""
    sampling, bound, stops, keys = knobs
    number, stopped = state["number"], state["stopped"]
    logits = plan.model.unembed(unembedding, hidden, plan.ctx)[:, 0]
    scores = constrained(bound, logits, state["tokens"], number)
    token = sample(scores, sampling, jax.vmap(jax.random.fold_in, (0, None))(keys, number), plan.kind)
    token = jnp.where(stopped, 0, token)
    new = {
        "number": number + 1,
        "tokens": state["tokens"].at[:, number].set(token),
        "lengths": state["lengths"] + ~stopped,
        "stopped": stopped | (token[:, None] == stops).any(-1),
        "position": state["position"] + 1,
    }
    if plan.log_probs:
        chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
        new["log_probs"] = state["log_probs"].at[:, number].set(jnp.where(stopped, 0.0, chosen))
    return {**state, **new}
