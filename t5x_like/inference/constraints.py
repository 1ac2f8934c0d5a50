# SPDX-License-Identifier: Apache-2.0
"""What may come next: repetitions, lengths and forced tokens, as Hugging Face's `generate` defines them.

They act on logits before temperature, top-k and top-p, and in beam search on log-probabilities, which are not
normalised again. A row is its prompt, without padding, and what has been generated; of a model with an encoder it
begins with the decoder's start token.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from t5x_like.errors import UserError

Bound = dict[str, jax.Array]  # what is on, as run-time values; what is off is not there, and is not compiled
_NOTHING = -1  # in a row: padding, or not generated yet


@dataclasses.dataclass(frozen=True)
class Constraints:
    """Which tokens are made impossible or less likely. By default none.

    Attributes:
      repetition_penalty: divides positive logits of tokens that the row has, and multiplies negative ones (Keskar et
        al. 2019, section 4.1, which divides both); 1 is off.
      no_repeat_ngram_size: no n-gram occurs twice in a row (Paulus et al. 2018, section 2.5); 0 is off.
      min_new_tokens: no stop token comes before so many others.
      forced_bos_token_id: comes first, behind a row of one token: a decoder's start.
      forced_eos_token_id: comes last, where a row gets as long as it may.
      suppress_tokens: never come.
    """

    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    min_new_tokens: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppress_tokens: Sequence[int] = ()

    def check(self, max_new_tokens: int) -> dict[str, Sequence[int]]:
        """Refuses what makes no sense, in one line; returns all tokens that are named."""
        for name, fine, accepted in (
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a number above 0"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 (off) or more"),
            ("min_new_tokens", 0 <= self.min_new_tokens <= max_new_tokens, f"0 to max_new_tokens={max_new_tokens}"),
        ):
            if not fine:
                raise UserError(f"{name}={getattr(self, name)}: expected {accepted}")
        forced = {name: [x] for name, x in vars(self).items() if name.startswith("forced") and x is not None}
        return forced | {"suppress_tokens": self.suppress_tokens}

    def bound(self, batch: dict[str, jax.Array], stop_tokens: Sequence[int], max_new_tokens: int) -> Bound:
        """What `constrained` reads for a batch of prompts."""
        on: Bound = {}
        if self.repetition_penalty != 1:
            on["penalty"] = jnp.float32(self.repetition_penalty)
        if self.no_repeat_ngram_size:
            on["ngram"] = jnp.int32(self.no_repeat_ngram_size)
        if on:
            on["prompt"] = jnp.where(batch["decoder_segment_ids"] > 0, batch["decoder_input_tokens"], _NOTHING)
        if self.min_new_tokens and len(stop_tokens):
            on |= {"fewest": jnp.int32(self.min_new_tokens), "stops": jnp.asarray(stop_tokens, jnp.int32)}
        forced = self.forced_bos_token_id, self.forced_eos_token_id
        if forced != (None, None):
            first, last = (_NOTHING if token is None else token for token in forced)
            on["first"] = jnp.where(batch["decoder_positions"][:, -1] == 0, first, _NOTHING)
            on |= {"last": jnp.int32(last), "most": jnp.int32(max_new_tokens)}
        if len(self.suppress_tokens):
            on["suppress"] = jnp.asarray(self.suppress_tokens, jnp.int32)
        return on


def constrained(on: Bound, scores: jax.Array, new: jax.Array, number: jax.Array) -> jax.Array:
    """Scores [rows, V] of what follows the first `number` of the tokens `new` [rows, slots]."""
    rows, vocab = scores.shape
    if "prompt" in on:
        prompt = jnp.repeat(on["prompt"], rows // len(on["prompt"]), axis=0)  # beams lie side by side
        row = jnp.concatenate([prompt, jnp.where(jnp.arange(new.shape[1]) < number, new, _NOTHING)], axis=1)
        if "penalty" in on:
            penalised = jnp.where(scores < 0, scores * on["penalty"], scores / on["penalty"])
            scores = jnp.where(_among(row, vocab), penalised, scores)
        if "ngram" in on:
            repeated = _repeated(row, prompt.shape[1] + number, on["ngram"])
            scores = jnp.where(_among(repeated, vocab), -jnp.inf, scores)
    if "stops" in on:
        scores = jnp.where(_among(on["stops"][None], vocab) & (number < on["fewest"]), -jnp.inf, scores)
    if "first" in on:
        first = jnp.where(number == 0, jnp.repeat(on["first"], rows // len(on["first"])), _NOTHING)
        forced = jnp.where((number + 1 == on["most"]) & (on["last"] != _NOTHING), on["last"], first)[:, None]
        alone = jnp.where(jnp.arange(vocab) == forced, 0.0, -jnp.inf)
        scores = jnp.where(forced == _NOTHING, scores, alone)
    return jnp.where(_among(on["suppress"][None], vocab), -jnp.inf, scores) if "suppress" in on else scores


def _repeated(row: jax.Array, end: jax.Array, size: jax.Array) -> jax.Array:
    """Of rows [rows, S] of `end` tokens, those that once came behind the last size - 1: of a b c a b, at 3, the c."""
    place = jnp.arange(row.shape[1])
    size = jnp.minimum(size, len(place) + 1)

    def agree(back: jax.Array, so_far: jax.Array) -> jax.Array:
        last = jax.lax.dynamic_index_in_dim(row, end - back, axis=1)
        return so_far & (jnp.roll(row, back, axis=1) == last) & (place >= back)

    return jnp.where(jax.lax.fori_loop(1, size, agree, jnp.broadcast_to(place < end, row.shape)), row, _NOTHING)


def _among(tokens: jax.Array, vocab: int) -> jax.Array:
    """Which tokens of the vocabulary are among those of each row [rows, S], bool [rows, V]."""
    places = jnp.where(tokens == _NOTHING, vocab, tokens)  # beyond the end, and dropped
    return jnp.zeros((len(tokens), vocab), bool).at[jnp.arange(len(tokens))[:, None], places].set(True, mode="drop")
