# SPDX-License-Identifier: Apache-2.0
"""Beam search in one compiled loop, over one cache that the beams of a prompt share.

Hypotheses form a tree. Each token of each beam gets a slot of its prompt's cache once, and stays there:

    slots     prompt ... | a0 b0 | a1 b1 | a2 b2        beams a and b after two steps, when b1 came from a0:
    beam a    x x x x x  |  x    |  x    |  x           which slots hold the tokens of its hypothesis
    beam b    x x x x x  |  x    |     x |     x

Choosing beams moves rows of that table of bits, never keys and values; the prompt is kept once, not once a beam.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import UserError
from t5x_like.inference.constraints import Bound, constrained
from t5x_like.inference.prompts import empty_cache_for, lengthened, rooms, rounded_up
from t5x_like.inference.sampling import Sampling
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes

State = dict[str, Any]
Knobs = tuple[Bound, jax.Array, jax.Array, jax.Array]  # constraints, stop tokens, alpha, most new tokens
NEVER = -jnp.inf  # the score of a hypothesis that does not exist
_BLOCK = 64  # of a vocabulary that is ranked


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """How to search.

    A hypothesis of n new tokens (a stop token counts) scores its log-probability divided by a penalty:

        "hf"    n ** alpha                  Hugging Face's length_penalty
        "gnmt"  ((5 + n) / 6) ** alpha      Wu et al. 2016, section 7; T5X's brevity penalty

    At each step the num_beams likeliest continuations that do not stop go on; one that stops is kept if it is among
    the num_beams likeliest of all, and if its score is among the num_beams best that have stopped. A row ends, when
    num_beams hypotheses have stopped, by `early_stopping`:

        "optimal"    when no running hypothesis can still beat the worst kept, however long it grows
        "heuristic"  when none would beat it at its present length (Hugging Face's False, its default)
        "first"      at once (Hugging Face's True)

    """

    num_beams: int = 4  # hypotheses kept at each step
    alpha: float = 1.0  # strength of the penalty; 0 compares plain log-probabilities, more favours long hypotheses
    penalty: Literal["hf", "gnmt"] = "hf"
    early_stopping: Literal["optimal", "heuristic", "first"] = "heuristic"

    def check(self, num_samples: int, sampling: Sampling) -> None:
        """Refuses what makes no sense, in one line."""
        if self.num_beams < 1:
            raise UserError(f"num_beams={self.num_beams}: expected 1 or more")
        if not math.isfinite(self.alpha):
            raise UserError(f"length_penalty={self.alpha}: expected a finite number")
        if not 1 <= num_samples <= self.num_beams:
            raise UserError(f"num_samples={num_samples}: beam search has 1 to num_beams={self.num_beams} results")
        if sampling.kind() != "greedy":
            raise UserError(f"temperature={sampling.temperature}: beam search does not sample; accepted: 0")
        for name, accepted in (("penalty", ("hf", "gnmt")), ("early_stopping", ("optimal", "heuristic", "first"))):
            if getattr(self, name) not in accepted:
                raise UserError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(accepted)}")


def search(
    model: Decodes,
    params: Params,
    batch: dict[str, jax.Array],
    max_new_tokens: int,
    beams: BeamSearch,
    constraints: Bound,
    stop_tokens: Sequence[int],
    ctx: Context,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Searches for continuations of left-padded prompts [B, P].

    Returns:
      tokens int [B, W, slots], lengths int [B, W] (a stop token counts) and scores float [B, W], best first.
    """
    static, slots = dataclasses.replace(beams, alpha=0.0), rounded_up(max_new_tokens)
    knobs = constraints, jnp.asarray(stop_tokens, jnp.int32), jnp.float32(beams.alpha), jnp.int32(max_new_tokens)
    tokens, lengths, scores = _search(model, ctx, static, slots, params, batch, knobs)
    return np.asarray(tokens), np.asarray(lengths), np.asarray(scores)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _search(
    model: Decodes, ctx: Context, beams: BeamSearch, slots: int, params: Params, batch: Any, knobs: Knobs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    count, prompt_length = batch["decoder_input_tokens"].shape
    width = beams.num_beams
    first, *later = rooms(prompt_length, slots, ctx, width)
    cache = empty_cache_for(model, batch, width * first, ctx.policy.compute)
    outputs = model.apply(params, batch, cache=cache, want=("hidden",), ctx=ctx)
    unembedding = model.unembedding(params)
    state: State = {
        "number": jnp.int32(0),
        "running": jnp.where(jnp.arange(width) == 0, jnp.zeros((count, width)), NEVER),
        "running_tokens": jnp.zeros((count, width, slots), jnp.int32),
        "stopped": jnp.full((count, width), NEVER),
        "stopped_tokens": jnp.zeros((count, width, slots), jnp.int32),
        "stopped_lengths": jnp.zeros((count, width), jnp.int32),
        "open": jnp.ones(count, bool),
        "visible": jnp.zeros((count, width, prompt_length + width * first), bool).at[:, :, :prompt_length].set(True),
        "cache": {**outputs["cache"], "index": jnp.int32(outputs["cache"]["index"])},
    }
    position = batch["decoder_positions"][:, -1]

    def extend(state: State, hidden: jax.Array) -> State:
        logits = model.unembed(unembedding, hidden, ctx)
        logits = jnp.broadcast_to(logits, (count, width, logits.shape[-1]))
        return _extend(beams, state, logits, knobs)

    def advance(state: State) -> State:
        number, cache = state["number"], state["cache"]
        tokens = jax.lax.dynamic_slice_in_dim(state["running_tokens"], number - 1, 1, axis=2)[:, :, 0]
        own = jnp.broadcast_to(jnp.eye(width, dtype=bool), (count, width, width))
        visible = jax.lax.dynamic_update_slice(state["visible"], own, (0, 0, cache["index"]))
        now = {
            "decoder_input_tokens": tokens,
            "decoder_positions": jnp.broadcast_to((position + number)[:, None], tokens.shape),
        }
        here = ctx.replace(mask=MaskSpec(allowed=visible))
        outputs = model.apply(params, now, cache=cache, want=("hidden",), ctx=here)
        return extend({**state, "visible": visible, "cache": outputs["cache"]}, outputs["hidden"])

    def run(state: State, room: int) -> State:
        most = jnp.minimum(knobs[-1], room)
        return jax.lax.while_loop(lambda state: (state["number"] < most) & state["open"].any(), advance, state)

    state = run(extend(state, outputs["hidden"][:, -1:]), first)
    for room in later:
        length = prompt_length + width * room
        state["cache"] = lengthened(model, state["cache"], length)
        state["visible"] = jnp.pad(state["visible"], ((0, 0), (0, 0), (0, length - state["visible"].shape[-1])))
        state = run(state, room)
    return state["stopped_tokens"], state["stopped_lengths"], state["stopped"]


def _extend(beams: BeamSearch, state: State, logits: jax.Array, knobs: Knobs) -> State:
    """Adds a token to every hypothesis, given the logits [B, W, V] that follow it."""
    (count, width, vocab), number = logits.shape, state["number"]
    bound, stops, alpha, until = knobs
    norm = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    if bound:  # they see log-probabilities
        flat = (logits - norm).reshape(-1, vocab), state["running_tokens"].reshape(count * width, -1)
        logits, norm = constrained(bound, *flat, number).reshape(logits.shape), jnp.zeros_like(norm)
    parent, token, total = _likeliest(state["running"], logits, norm, (1 + stops.size) * width)
    last = number + 1 == until
    stops_here = (token[..., None] == stops).any(-1) | last
    tokens = _take(state["running_tokens"], parent).at[:, :, number].set(token)

    # Those that stop: merged with those that stopped before, which come first where scores are equal.
    counts = stops_here & (jnp.arange(token.shape[1]) < width) & state["open"][:, None]
    scores = jnp.where(counts, total / _penalty(beams, alpha, number + 1), NEVER)
    stopped, best = jax.lax.top_k(jnp.concatenate([state["stopped"], scores], axis=1), width)
    lengths = jnp.broadcast_to(number + 1, token.shape)

    # Those that go on.
    running, kept = jax.lax.top_k(jnp.where(stops_here, NEVER, total), width)
    could_be = jnp.where((beams.early_stopping == "optimal") & (alpha > 0), until, number + 1)
    improvable = running[:, 0] / _penalty(beams, alpha, could_be) > stopped[:, -1]
    full = stopped[:, -1] > NEVER
    ends = full if beams.early_stopping == "first" else full & ~improvable
    return {
        **state,
        "number": number + 1,
        "running": running,
        "running_tokens": _take(tokens, kept),
        "visible": _take(state["visible"], jnp.take_along_axis(parent, kept, axis=1)),
        "stopped": stopped,
        "stopped_tokens": _take(jnp.concatenate([state["stopped_tokens"], tokens], axis=1), best),
        "stopped_lengths": _take(jnp.concatenate([state["stopped_lengths"], lengths], axis=1), best),
        "open": state["open"] & ~ends,
    }


def _likeliest(scores: jax.Array, logits: jax.Array, norm: jax.Array, number: int) -> tuple[jax.Array, ...]:
    """The `number` likeliest continuations, likeliest first, by log-probabilities: of hypotheses `scores` [B, W], of
    tokens `logits` [B, W, V] less `norm` [B, W, 1].

    Returns:
      parent, token and log-probability, [B, number] each (fewer where there are no more). Of equals the lower beam
      comes first, then the lower token.
    """
    count, _, vocab = logits.shape
    best, token = top_k(logits, min(number, vocab))  # of every beam: its order is that of the log-probabilities
    total = (scores[..., None] + (best - norm)).reshape(count, -1)
    total, chosen = jax.lax.top_k(total, min(number, total.shape[1]))
    return chosen // best.shape[2], jnp.take_along_axis(token.reshape(count, -1), chosen, axis=1), total


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`jax.lax.top_k` along the last dimension, of equals the one with the lower index first, by blocks.

    Whatever is among the k largest lies in one of the k blocks whose largest are largest; only those are ranked. On a
    CPU, where ranking a vocabulary takes longer than reading it, that is much cheaper.
    """
    size = x.shape[-1]
    blocks = -(-size // _BLOCK)
    if blocks <= 2 * k:
        return jax.lax.top_k(x, k)
    padding = [(0, 0)] * (x.ndim - 1) + [(0, blocks * _BLOCK - size)]
    by_block = jnp.pad(x, padding, constant_values=-jnp.inf).reshape(*x.shape[:-1], blocks, _BLOCK)
    chosen = jnp.sort(jax.lax.top_k(by_block.max(-1), k)[1], axis=-1)  # in order, for ties
    candidates = jnp.take_along_axis(by_block, chosen[..., None], axis=-2).reshape(*x.shape[:-1], k * _BLOCK)
    best, at = jax.lax.top_k(candidates, k)
    return best, jnp.take_along_axis(chosen, at // _BLOCK, axis=-1) * _BLOCK + at % _BLOCK


def _penalty(beams: BeamSearch, alpha: jax.Array, length: jax.Array) -> jax.Array:
    return length**alpha if beams.penalty == "hf" else ((5.0 + length) / 6.0) ** alpha


def _take(rows: jax.Array, index: jax.Array) -> jax.Array:
    """rows [B, N, ...] at index [B, M]."""
    return jnp.take_along_axis(rows, index.reshape(*index.shape, *(1,) * (rows.ndim - 2)), axis=1)
