# SPDX-License-Identifier: Apache-2.0
"""How often a model writes the very text that was to be written: what a label is scored by where it is a word."""

from collections.abc import Callable

from t5x_like.data.tasks.seq2seq import Seq2Seq
from t5x_like.inference.generate import generate
from t5x_like.models.layers.parameters import Params
from t5x_like.training.cores import generation_context
from t5x_like.training.program import Program

_PAIRS_PER_CALL = 64


def exact_match(
    program: Program,
    params: Params,
    dataset: Seq2Seq,
    pairs: int,
    progress: Callable[[float], None] = lambda share: None,
) -> float:
    """The share of up to `pairs` held-out pairs whose greedy text is the target, but for white space around them.

    So Raffel et al. 2020, section 2.3, score labels: any other text is wrong. A target that is cut is compared as cut.
    """
    asked = dataset.held_out_pairs(pairs)
    ctx, right = generation_context(program.ctx), 0
    for first in range(0, len(asked), _PAIRS_PER_CALL):
        some = asked[first : first + _PAIRS_PER_CALL]
        inputs, most = [one for one, _ in some], dataset.sequence_length - 1
        written = generate(program.model, params, inputs, max_new_tokens=most, stop_tokens=[dataset.end], ctx=ctx)
        for tokens, (_, target) in zip(written.tokens, some, strict=True):
            right += dataset.tokenizer.decode(tokens).strip() == dataset.tokenizer.decode(target).strip()
        progress((first + len(some)) / len(asked))
    return right / len(asked)
