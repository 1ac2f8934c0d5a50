# SPDX-License-Identifier: Apache-2.0
"""Memorisation against repetition: does a model write the rest of a text that it was trained on, as it was?"""

from collections.abc import Mapping, Sequence
from typing import Any

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError
from t5x_like.evaluation.probes.scoring import Progress, share
from t5x_like.inference.generate import generate
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model


def extraction(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    sequences: Sequence[Mapping[str, Any]],
    *,
    prefix_tokens: int = 50,
    batch_size: int = 32,
    ctx: Context | None = None,
    progress: Progress = lambda share: None,
) -> dict[str, Any]:
    """Texts that are extractable with k tokens of context (Carlini et al. 2023, definition 3.1): given the first k
    tokens, greedy decoding writes the others exactly.

    Each of the sequences is a "text", and "repeats", how often training saw it (1 where nothing is said; 0: what can be
    guessed). "by_repeats" has for every number of repeats, in order, the share that was extracted, and "matched", the
    mean share of tokens before the first wrong one. A text that ends within the prefix is a UserError.
    """
    rows = [list(map(int, row)) for row in tokenizer.encode_documents([str(each["text"]) for each in sequences])]
    if short := [i for i, row in enumerate(rows) if len(row) <= prefix_tokens]:
        text, count = str(sequences[short[0]]["text"]), len(rows[short[0]])
        raise UserError(f"prefix_tokens={prefix_tokens}: {text[:40]!r} has {count} tokens; accepted: below {count}")
    start, groups = tokenizer.specials.get("bos", tokenizer.separator), dict[int, list[float]]()
    for first in range(0, len(rows), batch_size):
        prompts = [[start, *row[:prefix_tokens]] for row in rows[first : first + batch_size]]
        most = max(map(len, rows)) - prefix_tokens
        written = generate(model, params, prompts, max_new_tokens=most, ctx=ctx).tokens
        for i, tokens in enumerate(written, first):
            rest = rows[i][prefix_tokens:]
            right = next((n for n, true in enumerate(rest) if tokens[n] != true), len(rest))
            groups.setdefault(int(sequences[i].get("repeats", 1)), []).append(right / len(rest))
        progress(min(1.0, (first + batch_size) / len(rows)))
    by_repeats = [
        {"repeats": repeats, **share(values.count(1.0), len(values)), "matched": sum(values) / len(values)}
        for repeats, values in sorted(groups.items())
    ]
    return {"prefix_tokens": prefix_tokens, "by_repeats": by_repeats}
