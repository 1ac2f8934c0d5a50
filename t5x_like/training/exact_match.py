# SPDX-License-Identifier: Apache-2.0
"""How often a model writes the very text that was to be written: what a label is scored by where it is a word."""

from collections.abc import Callable
from typing import Any

from t5x_like.evaluation.captions import cider_d
from t5x_like.inference.generate import generate
from t5x_like.models.layers.parameters import Params
from t5x_like.training.cores import generation_context
from t5x_like.training.program import Program

_PAIRS_PER_CALL = 64


def exact_match(
    program: Program, params: Params, dataset: Any, pairs: int, progress: Callable[[float], None] = lambda share: None
) -> dict[str, float]:
    """Of up to `pairs` of a dataset's `held_out_pairs`: "exact_match", the share whose greedy text is the target but
    for white space around them, as Raffel et al. 2020, section 2.3, score labels; of captions "cider_d", too. A target
    that is cut is compared as cut."""
    asked = dataset.held_out_pairs(pairs)
    ctx, texts = generation_context(program.ctx), []
    most = min(1 + max((len(target) for _, target in asked), default=0), dataset.sequence_length - 1)
    for first in range(0, len(asked), _PAIRS_PER_CALL):
        some = asked[first : first + _PAIRS_PER_CALL]
        inputs = [one for one, _ in some]
        written = generate(program.model, params, inputs, max_new_tokens=most, stop_tokens=[dataset.end], ctx=ctx)
        for tokens, (_, target) in zip(written.tokens, some, strict=True):
            texts.append([dataset.tokenizer.decode(each).strip() for each in (tokens, target)])
        progress((first + len(some)) / len(asked))
    scores = {"exact_match": sum(mine == theirs for mine, theirs in texts) / len(asked)}
    if getattr(dataset.config, "question", "") is None:
        scores["cider_d"] = cider_d([mine for mine, _ in texts], [[theirs] for _, theirs in texts])
    return scores
