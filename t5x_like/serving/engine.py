# SPDX-License-Identifier: Apache-2.0
"""Continuous batching (Orca, Yu et al. 2022): requests join and leave a compiled decoding step between any two tokens.

A slot has a cache of its own, with its own next place, and the step is one row's, mapped over slots; what differs
between requests is a run-time value. A free slot keeps its cache: a prompt that begins with the same tokens, such as
the next turn of a conversation, is read from where it differs. Between two tokens about `PIECE` tokens of prompts are
read, so a long prompt does not hold the others up (Agrawal et al. 2023).
"""

import collections
import dataclasses
import itertools
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.errors import UserError
from t5x_like.inference.constraints import Constraints
from t5x_like.inference.generate import GREEDY
from t5x_like.inference.prompts import as_batch, check_prompts, left_padded, rounded_up, row_keys
from t5x_like.inference.sampling import Sampling, sample
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Decodes, Encodes, Model, able
from t5x_like.serving.grammar import Grammar

MOST_LIKELIEST = 20
PIECE = 256
_WORTH = 16  # tokens that a prompt has in common with a cache; fewer are read again


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt, and how to go on: as `generate` does with it alone. `grammar` is what the new tokens have to spell;
    of each so many of the `likeliest` are told beside it, up to 20."""

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    seed: int = 0
    stop_tokens: Sequence[int] = ()
    grammar: Grammar | None = None
    likeliest: int = 0


class Reply:
    """Iterates over new tokens as they come, with the natural logarithms of the model's probabilities of them; `reason`
    is then "stop", "length", or what `end` was told. `likeliest` has as many pairs as were asked for beside each."""

    def __init__(self, request: Request):
        self.request, self.reason, self.likeliest = request, "", list[list[tuple[int, float]]]()
        self.state: frozenset[int] = frozenset() if request.grammar is None else request.grammar.start
        self.events = queue.SimpleQueue[tuple[int, float] | None]()

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(self.events.get, None)

    def end(self, reason: str = "cancelled") -> None:
        """Frees its slot before the next token."""
        self.reason = self.reason or reason
        self.events.put(None)

    def allowed(self, size: int) -> np.ndarray:
        """Which of so many tokens may come next."""
        grammar, stops = self.request.grammar, self.request.stop_tokens
        return np.ones(size, bool) if grammar is None else grammar.allowed(self.state, size, stops)

    def give(self, token: int, log_prob: float, likeliest: Iterable[tuple[int, float]] = ()) -> None:
        if token in self.request.stop_tokens:
            return self.end("stop")
        self.likeliest.append([*itertools.islice(likeliest, self.request.likeliest)])
        self.events.put((token, log_prob))
        if self.request.grammar is not None:
            self.state = self.request.grammar.after(self.state, token)
            if self.request.grammar.complete(self.state):
                self.end("stop")


@dataclasses.dataclass
class _Slot:
    knobs: dict[str, Any]  # run-time values of its request
    reply: Reply | None = None
    kept: list[int] = dataclasses.field(default_factory=list)  # tokens, and the place of each that its cache holds
    places: list[int] = dataclasses.field(default_factory=list)
    front: int = 0  # tokens of a trained prompt before them
    used: int = 0  # when

    def common(self, prompt: Sequence[int]) -> int:
        """How many of a prompt's first tokens its cache holds; the last has to be read in any case."""
        pairs = zip(self.kept, self.places, prompt[:-1], strict=False)
        return len(list(itertools.takewhile(lambda pair: pair[0] == pair[2], pairs)))


@dataclasses.dataclass(frozen=True)
class _Plan:
    model: Decodes
    ctx: Context
    length: int

    @property
    def memory(self) -> int:
        """The most tokens that an encoder reads; 0: there is none."""
        return min(self.length, self.model.max_length or self.length) if isinstance(self.model, Encodes) else 0

    def empty_cache(self) -> Params:
        return self.model.init_cache(1, self.length, self.ctx.policy.compute, self.memory)


class Engine:
    """Answers requests, up to `slots` at a time. Any thread may `submit`; one calls `run`, or `step` by itself."""

    def __init__(self, model: Model, params: Params, *, slots: int = 4, length: int = 1024, ctx: Context | None = None):
        """`length` is the most tokens of a prompt, rounded up, and what follows it; with an encoder of either."""
        self.model: Decodes = able(model, Decodes, "serving")
        ctx = (ctx or Context()).replace(train=False, key=None)
        self.params = jax.jit(partial(self.model.for_decoding, ctx=ctx))(params)
        self._plan = _Plan(self.model, ctx, length)
        self._slots = [_Slot(_knobs(Request([0], 1))) for _ in range(slots)]
        self._waiting: collections.deque[Reply] = collections.deque()
        self._reading: collections.deque[int] = collections.deque()  # slots whose prompt is not yet read
        self._goes_on = self.model.shares_cache and not self._plan.memory  # from where prompts differ
        self._piece = PIECE if self._goes_on and not hasattr(model, "in_front") else length
        self._changed, self._closed, self._clock = threading.Condition(), False, itertools.count(1)
        one = {"cache": self._plan.empty_cache(), "token": 0, "position": 0}
        self._state: Any = jax.tree.map(lambda x: jnp.zeros((slots, *jnp.shape(x)), jnp.asarray(x).dtype), one)

    def room(self, prompt: Sequence[int]) -> int:
        """How many tokens can follow a prompt."""
        most, memory = self.model.max_length, self._plan.memory
        if memory:
            return memory - 1 if len(prompt) <= memory else 0
        front = getattr(self.model, "in_front", list)(list(prompt))
        room = self._plan.length - rounded_up(len(front))
        return room if most is None else min(room, most - len(prompt))

    def submit(self, request: Request) -> Reply:
        """Queues a request; a `UserError` is what `generate` refuses, or more tokens than there is room for."""
        check_prompts(self.model, [request.prompt], request.max_new_tokens, request.stop_tokens, Constraints())
        request.sampling.check()
        if not 0 <= request.likeliest <= MOST_LIKELIEST:
            raise UserError(f"likeliest={request.likeliest}: accepted: 0 to {MOST_LIKELIEST}")
        if (room := self.room(request.prompt)) < request.max_new_tokens:
            raise UserError(
                f"max_tokens={request.max_new_tokens}: with a prompt of {len(request.prompt)} tokens that is more than "
                f"a slot of {self._plan.length} holds; accepted: at most {max(room, 0)}"
            )
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine was closed, or has failed")
            self._waiting.append(reply := Reply(request))
            self._changed.notify()
        return reply

    def run(self) -> None:
        """Works until `close`; should it fail, nobody is left waiting."""
        try:
            while not self._closed:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._waiting or self._busy())
                self.step()
        finally:
            self.close()
            for reply in [*self._waiting, *self._busy().values()]:
                reply.end()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def step(self) -> bool:
        """Lets waiting requests in, reads of their prompts, and gives those that were read before a token; returns
        whether any goes on."""
        while self._waiting and len(self._busy()) < len(self._slots):
            if not (reply := self._waiting.popleft()).reason:
                self._let_in(reply)
        read, going_on = 0, [number for number in self._busy() if number not in self._reading]
        while self._reading and read < self._piece:
            read += self._read(self._reading[0])
        if going_on:
            for number in going_on:
                self._slots[number].places.append(self._slots[number].places[-1] + 1)
            active = np.isin(np.arange(len(self._slots)), going_on)
            kind, knobs = self._told(self._slots)
            self._state, told = _step(self._plan, kind, self.params, self._state, active, knobs)
            self._give(going_on, [part[active] for part in map(np.asarray, told)])
        return bool(self._busy() or self._waiting)

    def _busy(self) -> dict[int, Reply]:
        replies = {number: slot.reply for number, slot in enumerate(self._slots)}
        return {number: reply for number, reply in replies.items() if reply and not reply.reason}

    def _let_in(self, reply: Reply) -> None:
        """Gives a request the slot whose cache has most of its prompt already."""
        prompt, new = reply.request.prompt, reply.request.max_new_tokens
        free = {*range(len(self._slots))} - {*self._busy()}
        number = max(free, key=lambda n: (self._slots[n].common(prompt), -self._slots[n].used))
        slot = self._slots[number]
        shared = slot.common(prompt) if self._goes_on else 0
        if shared < _WORTH or slot.places[shared - 1] + 1 + rounded_up(len(prompt) - shared) + new > self._plan.length:
            shared = 0
        slot.reply, slot.knobs = reply, _knobs(reply.request)
        slot.kept, slot.places = slot.kept[:shared], slot.places[:shared]
        self._reading.append(number)

    def _read(self, number: int) -> int:
        """Reads the next piece of a slot's prompt, and after the last chooses the first token; returns its length."""
        slot, reply = self._slots[number], self._slots[number].reply
        assert reply is not None
        piece = [] if reply.reason else [*reply.request.prompt[len(slot.kept) :][: self._piece]]
        if piece:
            start = slot.places[-1] + 1 if slot.kept else 0
            rest = left_padded([piece], rounded_up(len(piece))) if start else as_batch(self.model, [piece])
            for name in [name for name in rest if name.startswith("encoder_")]:
                rest[name] = jnp.pad(rest[name], ((0, 0), (0, self._plan.memory)))[:, : self._plan.memory]
            if start:
                rest["decoder_positions"] += len(slot.kept) + slot.front
            else:
                slot.front = int(rest["decoder_positions"][0, -1]) + 1 - len(piece)
            end = start + rest["decoder_input_tokens"].shape[1]
            slot.kept, slot.places = slot.kept + piece, [*slot.places, *range(end - len(piece), end)]
            kind, knobs = self._told([slot])
            self._state, told = _join(self._plan, kind, not start, self.params, self._state, rest, number, start, knobs)
        if not piece or len(slot.kept) == len(reply.request.prompt):
            self._reading.popleft()
            if piece:
                self._give([number], told)
        return len(piece)

    def _told(self, slots: list[_Slot]) -> tuple[str, dict[str, Any]]:
        """The kind of sampling that has to be compiled for these slots, and their run-time values."""
        requests = [slot.reply.request for slot in slots if slot.reply and not slot.reply.reason]
        kind = min(
            (request.sampling.kind() for request in requests), key=("cut", "free", "greedy").index, default="greedy"
        )
        knobs = {name: np.stack([slot.knobs[name] for slot in slots]) for name in slots[0].knobs}
        if any(request.grammar for request in requests):
            size = self.model.vocab_size
            knobs["allowed"] = np.stack([s.reply.allowed(size) if s.reply else np.ones(size, bool) for s in slots])
        if any(request.likeliest for request in requests):
            knobs["likeliest"] = np.zeros(0)  # that it is there is what is compiled
        return kind, knobs

    def _give(self, numbers: list[int], told: Any) -> None:
        for number, token, log_prob, *likeliest in zip(numbers, *map(np.asarray, told), strict=True):
            slot, reply = self._slots[number], self._slots[number].reply
            assert reply is not None
            slot.used, slot.knobs["number"] = next(self._clock), slot.knobs["number"] + 1
            slot.kept.append(int(token))  # its place follows once it is read
            reply.give(int(token), float(log_prob), zip(*(each.tolist() for each in likeliest), strict=True))
            if slot.knobs["number"] == reply.request.max_new_tokens and not reply.reason:
                reply.end("length")


def _knobs(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    top_p = 2.0 if sampling.top_p == 1 else sampling.top_p  # all, whatever their sum is rounded to
    knobs = {"temperature": np.float32(sampling.temperature), "top_k": np.int32(sampling.top_k), "number": np.int32(0)}
    key = jax.random.key_data(row_keys([request.prompt], 1, request.seed)[0])
    return {**knobs, "top_p": np.float32(top_p), "key": np.asarray(key)}


def _choose(plan: _Plan, kind: str, params: Params, hidden: jax.Array, knobs: dict[str, Any]) -> Any:
    """The tokens that follow hidden [B, 1, D], and their log-probabilities; then the likeliest, if they are told."""
    logits = plan.model.unembed(plan.model.unembedding(params), hidden, plan.ctx)[:, 0]
    scores = jnp.where(knobs["allowed"], logits, -jnp.inf) if "allowed" in knobs else logits
    token = scores.argmax(-1).astype(jnp.int32)
    if kind != "greedy":
        keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(knobs["key"]), knobs["number"])
        cold = knobs["temperature"] == 0
        how = Sampling(jnp.where(cold, 1.0, knobs["temperature"]), knobs["top_k"], knobs["top_p"])
        drawn = jax.vmap(lambda row, how, key: sample(row[None], how, key[None], kind)[0])(scores, how, keys)
        token = jnp.where(cold, token, drawn)
    log_probs = jax.nn.log_softmax(logits)
    told = token, jnp.take_along_axis(log_probs, token[:, None], -1)[:, 0]
    if "likeliest" not in knobs:
        return told
    values, tokens = jax.lax.top_k(log_probs, min(MOST_LIKELIEST, log_probs.shape[-1]))
    return *told, tokens, values


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _join(
    plan: _Plan, kind: str, anew: bool, params: Params, state: Any, batch: Any, slot: Any, start: Any, knobs: Any
) -> tuple[Any, Any]:
    """Reads a piece of a prompt, [1, T], into a slot's cache, anew or from place `start` on."""
    cache = plan.empty_cache() if anew else {**jax.tree.map(lambda x: x[slot], state["cache"]), "index": start}
    outputs = plan.model.apply(params, batch, cache=cache, want=("hidden",), ctx=plan.ctx)
    told = _choose(plan, kind, params, outputs["hidden"][:, -1:], knobs)
    new = {"cache": outputs["cache"], "token": told[0][0], "position": batch["decoder_positions"][0, -1] + 1}
    return jax.tree.map(lambda all, one: all.at[slot].set(one), state, new), told


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _step(plan: _Plan, kind: str, params: Params, state: Any, active: Any, knobs: Any) -> tuple[Any, Any]:
    """A token for every slot; of one that is not active all but the next place of its cache stays as it is."""

    def one(cache: Params, token: jax.Array, position: jax.Array) -> tuple[jax.Array, Params]:
        batch = {"decoder_input_tokens": token[None, None], "decoder_positions": position[None, None]}
        outputs = plan.model.apply(params, batch, cache=cache, want=("hidden",), ctx=plan.ctx)
        return outputs["hidden"][0], outputs["cache"]

    def kept(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(active.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    slots = state["cache"], state["token"], state["position"]
    alone = getattr(plan.model.config, "experts", None) is not None  # their products cannot be mapped at once
    hidden, cache = jax.lax.map(lambda slot: one(*slot), slots) if alone else jax.vmap(one)(*slots)
    told = _choose(plan, kind, params, hidden, knobs)
    if plan.model.shares_cache:  # what lies behind its next place is written again
        cache = {**cache, "index": kept(cache["index"], state["cache"]["index"])}
    else:
        cache = jax.tree.map(kept, cache, state["cache"])
    token, position = jnp.where(active, told[0], state["token"]), state["position"] + active
    return {"cache": cache, "token": token, "position": position}, told
