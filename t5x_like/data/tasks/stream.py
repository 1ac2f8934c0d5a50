# SPDX-License-Identifier: Apache-2.0
"""Tasks on a stream of text: documents tokenised, one behind the other, cut into windows."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config.data.tasks import TextTaskConfig
from t5x_like.data.cache import tokenised
from t5x_like.data.dataset import FiniteDataset
from t5x_like.data.examples import load_examples
from t5x_like.data.packing import Batch, num_windows
from t5x_like.data.sources import Example
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError


class StreamDataset(FiniteDataset):
    """Windows of `raw_length` tokens of the stream; the windows stay the same, their order does not.

    Only a training stream shorter than one window is padded; of the held-out stream every window is a row.

    Raises:
      UserError: see `load_examples` and `tokenised`.

    Attributes:
      predicts_all: whether every token of the stream is a target, so that there are bits per byte.
    """

    predicts_all = True

    def __init__(
        self,
        config: Any,
        seed: int,
        cache_dir: Path | None = None,
        tokenizer: Tokenizer | None = None,
        raw_length: int | None = None,
    ):
        examples = load_examples(config, (config.text,))
        text = tokenised(config, examples, partial(encoded, config.text), {}, cache_dir, tokenizer)
        self.config, self.raw_length = config, raw_length or config.sequence_length
        self.streams = {"train": text.train[config.text], "held_out": text.held_out[config.text]}
        self.tokenizer, self.vocab_size, self.sequence_length = (
            text.tokenizer,
            text.tokenizer.vocab_size,
            config.sequence_length,
        )
        self.fingerprint, self.unique_tokens = text.meta["fingerprint"], text.meta["train_tokens"]
        if self.predicts_all:
            self.held_out_bytes_per_token = text.meta["held_out_bytes"] / text.meta["held_out_tokens"]
        self.description = described(config, text.meta)
        train = self.streams["train"]
        if config.unique_tokens is not None:
            self.streams["train"] = train = self._first(config.unique_tokens)
        rows = max(1, (len(train.stream) - 1) // self.raw_length)
        super().__init__(rows, num_windows(len(self.streams["held_out"].stream), self.raw_length), seed)

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

    @abstractmethod
    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch: ...


def encoded(column: str, tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[Mapping[str, np.ndarray]]:
    return ({column: tokens} for tokens in tokenizer.encode_documents([example[column] for example in examples]))


def described(config: TextTaskConfig, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and fingerprints for environment.json."""
    kept = {name: value for name, value in meta.items() if name != "format" and not name.endswith("_columns")}
    return {"source": config.source.kind, "task": config.kind, **kept}


def decoder_features(targets: np.ndarray, real: np.ndarray) -> Batch:
    """Of one text a row, [B, T] each: inputs are the targets one later, behind a start token 0."""
    inputs = np.concatenate([np.zeros_like(targets[:, :1]), targets[:, :-1]], axis=1)
    return {
        "decoder_input_tokens": inputs * real,
        "decoder_target_tokens": targets * real,
        "decoder_segment_ids": real.astype(np.int32),
        "decoder_positions": np.arange(targets.shape[1], dtype=np.int32) * real,
        "decoder_loss_weights": real.astype(np.float32),
    }


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
