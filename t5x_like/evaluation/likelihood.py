# SPDX-License-Identifier: Apache-2.0
"""How likely a model takes given texts to be, behind others: many at a time, in one compiled call for each length."""

from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from t5x_like.data.packing import decoder_batch
from t5x_like.data.tasks.text import encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.inference.prompts import rounded_up
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Batch, Decodes, Encodes, LanguageModel, Model, able
from t5x_like.objectives.cross_entropy import over_vocabulary

Pair = tuple[list[int], list[int]]  # tokens of a context and of a target

# Of a target: its natural log-probability, its tokens, how many of those were the likeliest, and how many of the
# context's first tokens were cut away.
Likelihood = namedtuple("Likelihood", "log_prob tokens likeliest cut")


def log_likelihoods(
    model: Model,
    params: Params,
    pairs: Sequence[Pair],
    ctx: Context,
    *,
    batch_size: int = 32,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Likelihood]:
    """Scores targets behind their contexts, which are the encoder's where there is one; none may be empty.

    A context that does not fit into the model's positions beside its target loses its first tokens; a target that does
    not, or a model that writes no text, is a `UserError`.
    """
    decodes: Decodes = able(model, Decodes, "log-likelihoods")
    most = decodes.max_length or max(len(context) + len(target) for context, target in pairs)
    if (longest := max(len(target) for _, target in pairs)) > most:
        raise UserError(f"target: {longest} tokens are more than the model's {most} positions")
    rooms = [most if isinstance(model, Encodes) else most + 1 - len(target) for _, target in pairs]
    kept = [(context[-room:], target) for (context, target), room in zip(pairs, rooms, strict=True)]
    order = sorted(range(len(pairs)), key=lambda i: -len(kept[i][1]) - len(kept[i][0]))
    results = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [kept[i] for i in (*chosen, *[chosen[-1]] * (batch_size - len(chosen)))]
        sums = jax.device_get(_scores(decodes, ctx, params, _batch(model, rows, most)))
        for i, loss, likeliest in zip(chosen, sums["loss"].tolist(), sums["accuracy"].tolist(), strict=False):
            results[i] = Likelihood(-loss, len(kept[i][1]), round(likeliest), len(pairs[i][0]) - len(kept[i][0]))
        progress((start + len(chosen)) / len(order))
    return [results[i] for i in range(len(pairs))]


def _batch(model: Model, rows: Sequence[Pair], most: int) -> Any:
    """Rows of few lengths, [B, T]: every token of a target is predicted from what is before it."""
    before, batch = [context for context, _ in rows], {}
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
    rest = {"targets": batch["decoder_target_tokens"], "weights": batch["decoder_loss_weights"]}
    hidden = model.apply(params, batch, want=("hidden",), ctx=ctx)["hidden"]
    return over_vocabulary(model, params, hidden, rest, rest["weights"].sum(1), ctx, None)[1]


def divided(tokenizer: Tokenizer, prompt: str, target: str) -> Pair:
    """Tokens of a prompt and of what follows it, as one text is cut: white space at the prompt's end goes with the
    target, whose first word it begins. The target has a token at least."""
    whole = [*map(int, tokenizer.encode(prompt + target))]
    count = min(len(tokenizer.encode(prompt.rstrip())), len(whole) - 1)
    return whole[:count], whole[count:]
