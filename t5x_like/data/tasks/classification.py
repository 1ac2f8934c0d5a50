# SPDX-License-Identifier: Apache-2.0
"""Classification of texts, or of pairs of texts: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], as BERT reads them.

Features: encoder_input_tokens, encoder_segment_ids, encoder_positions, encoder_token_types (0 for a, 1 for b), labels.
A pair that is too long loses tokens from the end of its longer text, one after another.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config.data.tasks import ClassificationConfig
from t5x_like.data.cache import tokenised
from t5x_like.data.dataset import FiniteDataset
from t5x_like.data.examples import load_examples
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.stream import described, encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer


class Framed(FiniteDataset):
    """Examples one a row, framed by [CLS] and [SEP]."""

    def __init__(
        self,
        config: Any,
        columns: tuple[str, ...],
        encode: Any,
        seed: int,
        cache_dir: Path | None,
        tokenizer: Tokenizer | None,
    ):
        examples = load_examples(config, columns)
        how = {"task": config.kind, "columns": columns}
        text = tokenised(config, examples, partial(encode, config), how, cache_dir, tokenizer)
        self.config, self.sequence_length, self.tokenizer = config, config.sequence_length, text.tokenizer
        self.vocab_size, self.fingerprint = text.tokenizer.vocab_size, text.meta["fingerprint"]
        self.special = text.tokenizer.needs(("cls", "sep"), config.kind)
        self.columns = {"train": text.train, "held_out": text.held_out}
        self.unique_tokens = text.meta["train_tokens"]
        self.description = described(config, text.meta)
        super().__init__(len(examples.train), len(examples.held_out), seed)


class Classification(Framed):
    def __init__(
        self, config: ClassificationConfig, seed: int, cache_dir: Path | None = None, tokenizer: Tokenizer | None = None
    ):
        super().__init__(config, (*config.columns, config.label), _encode, seed, cache_dir, tokenizer)

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        columns = self.columns[split]
        texts, types = zip(*(self._framed(split, index) for index in indices), strict=True)
        labels = np.array([columns["label"].row(index)[0] for index in indices], np.int32)
        features = encoder_features(*padded(texts, self.sequence_length))
        return features | {"encoder_token_types": padded(types, self.sequence_length)[0], "labels": labels}

    def _framed(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [self.columns[split][column].row(index) for column in self.config.columns]
        lengths = [len(part) for part in parts]
        while sum(lengths) + len(parts) + 1 > self.sequence_length:
            lengths[int(np.argmax(lengths))] -= 1
        cls, sep = self.special["cls"], self.special["sep"]
        pieces = [[cls], *(piece for part, n in zip(parts, lengths, strict=True) for piece in (part[:n], [sep]))]
        first = lengths[0] + 2
        tokens = np.concatenate(pieces).astype(np.int32)
        return tokens, (np.arange(len(tokens)) >= first).astype(np.int32)


def _encode(
    config: ClassificationConfig, tokenizer: Tokenizer, examples: Sequence[Example]
) -> Iterator[Mapping[str, np.ndarray]]:
    texts = [tokenizer.encode_documents([str(example[column]) for example in examples]) for column in config.columns]
    for example, *encoded in zip(examples, *texts, strict=True):
        yield dict(zip(config.columns, encoded, strict=True)) | {"label": np.array([example[config.label]], np.int32)}


build = Classification
