# SPDX-License-Identifier: Apache-2.0
"""Sequence-level knowledge distillation (Kim and Rush 2016): what a teacher writes stands for a source's targets."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.inference.beam import BeamSearch
from t5x_like.inference.generate import generate
from t5x_like.models.context import Context
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Encodes, Model

Answer = Callable[[list[list[int]]], list[str]]


def prompt_of(model: Model, tokenizer: Tokenizer, text: str, length: int) -> list[int]:
    """At most `length` tokens that a model reads of a text: with an encoder as pairs are trained on, else from the
    start of a document on."""
    tokens = [*map(int, tokenizer.encode(text))][: length - 1]
    if isinstance(model, Encodes):
        return [*tokens, tokenizer.specials["eos"]]
    return [tokenizer.specials.get("bos", tokenizer.separator), *tokens]


def answers(
    model: Model, params: Params, tokenizer: Tokenizer, beams: BeamSearch, max_new_tokens: int, ctx: Context
) -> Answer:
    """Returns a function from prompts to the best text that beam search finds for each."""

    def answer(prompts: list[list[int]]) -> list[str]:
        how: dict[str, Any] = {"beams": beams, "stop_tokens": [tokenizer.separator], "ctx": ctx}
        found = generate(model, params, prompts, max_new_tokens=max_new_tokens, **how)
        return [tokenizer.decode_bytes(tokens).decode("utf-8", "replace") for tokens in found.tokens]

    return answer


def write_answers(
    prompts: Sequence[list[int]],
    answer: Answer,
    line_of: Callable[[int, str], Mapping[str, Any]],
    path: Path,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes a line of JSON for every prompt, what `line_of` makes of its number and the answer; longest prompts first.

    Those of about one length are answered together, so few shapes are compiled. The file has its name once it is whole;
    until then its lines are kept under another, and a second call goes on behind them. Nothing is done where it is.
    """
    if path.is_file():
        return
    part = path.with_name(f".{path.name}.part")
    whole = part.read_bytes().rpartition(b"\n") if part.is_file() else (b"", b"", b"")
    kept = whole[0] + whole[1]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with part.open("wb") as file:
        file.write(kept)
        for start in range(kept.count(b"\n"), len(order), batch_size):
            progress(start, len(order))
            here = order[start : start + batch_size]
            for i, text in zip(here, answer([prompts[i] for i in here]), strict=True):
                file.write((json.dumps(line_of(i, text)) + "\n").encode())
            file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    progress(len(order), len(order))
