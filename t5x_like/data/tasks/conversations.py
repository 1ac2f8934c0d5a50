# SPDX-License-Identifier: Apache-2.0
"""Conversations, several in a row where they fit. Here 7 8 is what a user says, 4 5 the answer, 0 starts and ends:

    decoder_input_tokens   0 7 8 4 5 0 9 3      decoder_segment_ids    1 1 1 1 1 2 2 2
    decoder_target_tokens  7 8 4 5 0 9 3 0      decoder_positions      0 1 2 3 4 0 1 2
    decoder_loss_weights   0 0 1 1 1 0 1 1

Which conversations share a row follows from their lengths alone, as of pairs (`seq2seq.py`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.data.chat_template import ChatTemplate
from t5x_like.data.packing import Batch, decoder_batch, first_fit
from t5x_like.data.sources import Example
from t5x_like.data.tasks.text import Encoded, TextDataset
from t5x_like.data.tokenizers import Tokenizer

Said = tuple[np.ndarray, np.ndarray]  # tokens from the start to the end, and which of them are learnt


def said(tokenizer: Tokenizer, messages: Any, template: ChatTemplate | None = None) -> Said:
    """A conversation, or without a template a prompt and an answer as they are, with its start and its end."""
    if template is not None:
        tokens, learnt = template.trained_tokens(tokenizer, messages)
        last = len(learnt) - learnt[::-1].index(True) if any(learnt) else len(learnt)
        tokens, learnt = tokens[:last], learnt[:last]
    else:
        parts = [[tokenizer.specials.get("bos", tokenizer.separator), *tokenizer.encode(messages[0])]]
        parts.append([*tokenizer.encode(messages[1])])
        tokens, learnt = [*parts[0], *parts[1]], [n > 0 for n, part in enumerate(parts) for _ in part]
    if tokens[-1] != tokenizer.separator:
        tokens, learnt = [*tokens, tokenizer.separator], [*learnt, True]
    return np.array(tokens, tokenizer.dtype), np.array(learnt, np.uint8)


def rows_of(rows: Sequence[Sequence[Said]], length: int, room: int) -> Batch:
    """The `decoder_*` features, [B, length]: of each row its conversations as segments, of `room` tokens at most."""
    tokens, targets, segments, positions, weights = (np.zeros((len(rows), length), np.int32) for _ in range(5))
    for row, parts in enumerate(rows):
        at = 0
        for number, (own, learnt) in enumerate(parts, start=1):
            own, learnt = own[-room - 1 :], learnt[-room - 1 :]
            here = slice(at, at + len(own) - 1)
            tokens[row, here], targets[row, here], weights[row, here] = own[:-1], own[1:], learnt[1:]
            segments[row, here], positions[row, here] = number, np.arange(len(own) - 1)
            at += len(own) - 1
    return decoder_batch(tokens, targets, segments, positions, weights)


class Conversations(TextDataset):
    """See above; `end` is the token behind an answer."""

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        c = self.config
        template = None if c.messages is None else ChatTemplate.named(c.template)
        for example in examples:
            told = (str(example[c.prompt]), str(example[c.answer])) if c.messages is None else example[c.messages]
            tokens, learnt = said(tokenizer, told, template)
            yield {"tokens": tokens, "learnt": learnt}

    def how(self, read: tuple[str, ...]) -> dict[str, Any]:
        template = None if self.config.messages is None else ChatTemplate.named(self.config.template)
        return super().how(read) | {"template": template and template.fingerprint}

    def count_rows(self, meta: Mapping[str, Any]) -> tuple[int, int]:
        self.end = self.tokenizer.separator
        self.unique_tokens = int(self.columns["train"]["learnt"].stream.sum())
        self.members = {split: self._rows(columns["tokens"].lengths - 1) for split, columns in self.columns.items()}
        return len(self.members["train"]), len(self.members["held_out"])

    def _rows(self, sizes: np.ndarray) -> list[np.ndarray]:
        """Which conversations are in each row."""
        if not self.config.pack:
            return [np.array([number]) for number in range(len(sizes))]
        room = self.sequence_length
        rows = first_fit(np.minimum(sizes, room)[:, None], np.array([room]))
        return np.split(np.argsort(rows, kind="stable"), np.flatnonzero(np.diff(np.sort(rows))) + 1)

    def _said(self, split: str, index: int) -> Said:
        tokens, learnt = (self.columns[split][name].row(index) for name in ("tokens", "learnt"))
        return tokens, learnt

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        of_row = [[self._said(split, member) for member in self.members[split][index]] for index in indices]
        return rows_of(of_row, self.sequence_length, self.sequence_length)

    def held_out_pairs(self, count: int) -> list[tuple[list[int], list[int]]]:
        """Up to `count` prompts that are held out, and the last answer of each, without its end."""
        made = [self._said("held_out", n) for n in range(min(count, len(self.columns["held_out"]["tokens"].starts)))]
        cut = [(tokens[-self.sequence_length :].tolist(), learnt[-self.sequence_length :]) for tokens, learnt in made]
        first = [len(learnt) - int(np.argmin(learnt[::-1])) for _, learnt in cut]
        return [(tokens[:at], tokens[at:-1]) for (tokens, _), at in zip(cut, first, strict=True)]


build = Conversations
