# SPDX-License-Identifier: Apache-2.0
"""How likely a model takes given texts to be, behind others: many at a time, in one compiled call for each length."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from t5x_like.data.packing import decoder_batch
from t5x_like.data.tasks.text import encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.prompts import rounded_up
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Batch, Encodes, LanguageModel, Model, able
from t5x_like.objectives.cross_entropy import over_vocabulary

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Of one target: the natural logarithm of its probability, its tokens, how many of them were the likeliest, and
    how many of the context's first tokens were cut away."""

    log_prob: float
    tokens: int
    likeliest: int
    cut: int


def log_likelihoods(
    model: Model,
    params: Params,
    pairs: Sequence[tuple[Tokens, Tokens]],
    ctx: Context,
    *,
    batch_size: int = 32,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Likelihood]:
    """Scores targets behind their contexts; for an encoder-decoder contexts are the encoder's.

    Args:
      pairs: (context, target), tokens, none empty. A context that does not fit into the model's positions beside its
        target loses its first tokens.

    Raises:
      UserError: the model has no logits over a vocabulary or reads no text, or a target has more tokens than positions.
    """
    language: LanguageModel = able(model, LanguageModel, "log-likelihoods")
    if "decoder" not in model.config.streams:
        raise UserError(f"model.kind: {model.config.kind!r} has no decoder, which log-likelihoods need")
    most = getattr(model, "max_length", None) or max(len(context) + len(target) for context, target in pairs)
    if (longest := max(len(target) for _, target in pairs)) > most:
        raise UserError(f"target: {longest} tokens are more than the model's {most} positions")
    encodes, results = isinstance(model, Encodes), {}
    rooms = [most if encodes else most + 1 - len(target) for _, target in pairs]
    kept = [(list(context)[-room:], list(target)) for (context, target), room in zip(pairs, rooms, strict=True)]
    order = sorted(range(len(pairs)), key=lambda i: -len(kept[i][1]) - len(kept[i][0]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [kept[i] for i in (*chosen, *[chosen[-1]] * (batch_size - len(chosen)))]
        sums = jax.device_get(_scores(language, ctx, params, _batch(model, rows, most)))
        for row, i in enumerate(chosen):
            cut = len(pairs[i][0]) - len(kept[i][0])
            results[i] = Likelihood(-float(sums["loss"][row]), len(kept[i][1]), round(sums["accuracy"][row]), cut)
        progress((start + len(chosen)) / len(order))
    return [results[i] for i in range(len(pairs))]


def _batch(model: Model, rows: Sequence[tuple[list[int], list[int]]], most: int) -> dict[str, np.ndarray]:
    """Rows of few lengths, [B, T]: every token of a target is predicted from what is before it."""
    before: list[list[int]] = [context for context, _ in rows]
    batch = {}
    if isinstance(model, Encodes):
        length = min(rounded_up(max(map(len, before))), most)
        batch = encoder_features(*padded([np.array(context) for context in before], length))
        before = [[model.start_token]] * len(rows)
    texts = [np.array([*context, *target]) for context, (_, target) in zip(before, rows, strict=True)]
    tokens, real = padded(texts, min(rounded_up(max(map(len, texts)) - 1), most) + 1)
    places, real = np.arange(tokens.shape[1] - 1), real[:, 1:]
    weights = real & (places >= np.array([[len(context) - 1] for context in before]))
    segments = real.astype(np.int32)
    return batch | decoder_batch(tokens[:, :-1] * segments, tokens[:, 1:], segments, places * segments, weights)


@partial(jax.jit, static_argnums=(0, 1))
def _scores(model: LanguageModel, ctx: Context, params: Params, batch: Batch) -> Batch:
    rest = {name: batch[f"decoder_{key}"] for name, key in (("targets", "target_tokens"), ("weights", "loss_weights"))}
    hidden = model.apply(params, batch, want=("hidden",), ctx=ctx)["hidden"]
    return over_vocabulary(model, params, hidden, rest, rest["weights"].sum(1), ctx, None)[1]


def divided(tokenizer: Tokenizer, prompt: str, target: str) -> tuple[list[int], list[int]]:
    """Tokens of a prompt and of what follows it, as one text is cut: white space at the prompt's end goes with the
    target, whose first word it begins. The target has a token at least."""
    text = prompt.rstrip()
    whole = [*map(int, tokenizer.encode(prompt + target))]
    count = min(len(tokenizer.encode(text)), len(whole) - 1)
    return whole[:count], whole[count:]
