# SPDX-License-Identifier: Apache-2.0
"""Tasks on text: examples tokenised; or one stream of documents, one behind the other, cut into windows."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.data.cache import tokenised
from t5x_like.data.dataset import FiniteDataset
from t5x_like.data.examples import load_examples
from t5x_like.data.packing import Batch, decoder_batch, num_windows
from t5x_like.data.sources import Example
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError

Encoded = Iterator[Mapping[str, np.ndarray]]


class TextDataset(FiniteDataset):
    """Examples of a source as tokens, out of the cache: `columns[split][column]` are the arrays that `encode` made of
    it. Raises UserError: see `load_examples` and `tokenised`."""

    tokenizer: Tokenizer

    def __init__(self, config: Any, seed: int, cache_dir: Path | None = None, tokenizer: Tokenizer | None = None):
        self.config, self.sequence_length = config, config.sequence_length
        read = tuple(config.reads)
        text = tokenised(config, load_examples(config, read), self.encode, self.how(read), cache_dir, tokenizer)
        self.tokenizer, self.vocab_size = text.tokenizer, text.tokenizer.vocab_size
        self.columns = {"train": text.train, "held_out": text.held_out}
        self.fingerprint, self.unique_tokens = text.meta["fingerprint"], text.meta["train_tokens"]
        kept = {n: value for n, value in text.meta.items() if n != "format" and not n.endswith("_columns")}
        self.description = {"source": config.source.kind, "task": config.kind, **kept}
        super().__init__(*self.count_rows(text.meta), seed)
        self.prepare()

    @abstractmethod
    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        """What is kept of each example."""

    def how(self, read: tuple[str, ...]) -> dict[str, Any]:
        """Names what `encode` does, for the cache."""
        return {"task": self.config.kind, "columns": read}

    def count_rows(self, meta: Mapping[str, Any]) -> tuple[int, int]:
        """Of training and held out: one an example, unless a task says otherwise."""
        return meta["train_examples"], meta["held_out_examples"]

    def prepare(self) -> None:
        """What else a task has to know before it makes rows."""


class StreamDataset(TextDataset):
    """Windows of `raw_length` tokens of the stream; the windows stay the same, their order does not.

    Only a training stream shorter than one window is padded; of the held-out stream every window is a row.
    """

    predicts_all = True  # every token of the stream is a target, so that there are bits per byte

    @cached_property
    def raw_length(self) -> int:
        return self.sequence_length

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        column = self.config.text
        values = [example[column] for example in examples]
        texts = tokenizer.encode_documents([value for value in values if isinstance(value, str)])
        for value in values:  # ids stay as they are
            yield {column: next(texts) if isinstance(value, str) else np.asarray(value, tokenizer.dtype)}

    def how(self, read: tuple[str, ...]) -> dict[str, Any]:
        return {}

    def count_rows(self, meta: Mapping[str, Any]) -> tuple[int, int]:
        self.streams = {split: columns[self.config.text] for split, columns in self.columns.items()}
        if self.predicts_all and not meta.get("token_ids"):
            self.held_out_bytes_per_token = meta["held_out_bytes"] / meta["held_out_tokens"]
        if self.config.unique_tokens is not None:
            self.streams["train"] = self._first(self.config.unique_tokens)
        train, held_out = (len(self.streams[split].stream) for split in ("train", "held_out"))
        return max(1, (train - 1) // self.raw_length), num_windows(held_out, self.raw_length)

    def _first(self, tokens: int) -> Any:
        """The training stream's first tokens, which are targets once each in an epoch."""
        train = self.streams["train"]
        if tokens % self.raw_length or tokens >= len(train.stream):
            whole = (len(train.stream) - 1) // self.raw_length * self.raw_length
            raise UserError(
                f"data.unique_tokens: {tokens} is no multiple of the {self.raw_length} tokens of a window, or more "
                f"than there are; nearest: {min(max(1, round(tokens / self.raw_length)) * self.raw_length, whole)}"
            )
        self.unique_tokens = tokens
        self.fingerprint = f"{self.fingerprint}-{tokens}"
        return train._replace(stream=train.stream[: tokens + 1], starts=train.starts[train.starts <= tokens])

    def raw(self, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of windows, int32 [B, raw_length], and which of them are real: a last window has fewer."""
        stream = self.streams[split].stream
        places = indices[:, None] * self.raw_length + np.arange(self.raw_length)
        real = places < len(stream)
        return np.where(real, stream[np.minimum(places, len(stream) - 1)], 0).astype(np.int32), real


def decoder_features(targets: np.ndarray, real: np.ndarray, start: int) -> Batch:
    """Of one text a row, [B, T] each: inputs are the targets one later, behind the token `start`."""
    inputs = np.concatenate([np.full_like(targets[:, :1], start), targets[:, :-1]], axis=1)
    positions = np.arange(targets.shape[1], dtype=np.int32) * real
    return decoder_batch(inputs * real, targets * real, real.astype(np.int32), positions, real)


def encoder_features(tokens: np.ndarray, real: np.ndarray) -> Batch:
    """Of one text a row, [B, S] each."""
    return {
        "encoder_input_tokens": tokens * real,
        "encoder_segment_ids": real.astype(np.int32),
        "encoder_positions": np.arange(tokens.shape[1], dtype=np.int32) * real,
    }


def padded(rows: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different lengths as int32 [B, length], cut where they are longer, and which tokens are real."""
    tokens = np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row[:length]
    lengths = np.array([min(len(row), length) for row in rows], np.int64)
    return tokens, np.arange(length) < lengths[:, None]
