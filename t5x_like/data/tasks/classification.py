# SPDX-License-Identifier: Apache-2.0
"""Classification of texts, or of pairs of texts: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], as BERT reads them.

Features: encoder_input_tokens, encoder_segment_ids, encoder_positions, encoder_token_types (0 for a, 1 for b), labels.

A decoder reads START a EXTRACT, or START a DELIMITER b EXTRACT (Radford et al. 2018, section 3.3), and has the five
decoder_* features: each token's target is the next. The three are the tokens of the roles bos, sep and cls; the one
that separates documents takes the place of one that the tokenizer lacks.

A pair that is too long loses tokens from the end of its longer text, one after another.
"""

from collections.abc import Sequence

import numpy as np

from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.text import Encoded, TextDataset, encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer


class Framed(TextDataset):
    """Examples one a row, framed by [CLS] and [SEP]."""

    def prepare(self) -> None:
        self.special = self.tokenizer.needs(("cls", "sep"), self.config.kind)

    def features(self, rows: Sequence[Sequence[np.ndarray]], labels: np.ndarray) -> Batch:
        """Of one or two texts a row, the second of another type than the first."""
        return of_encoder(self.tokenizer, rows, self.sequence_length) | {"labels": labels}


class Classification(Framed):
    def prepare(self) -> None:
        if self.config.stream == "encoder":
            super().prepare()

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        names, label = self.config.columns, self.config.label
        texts = [tokenizer.encode_documents([str(example[name]) for example in examples]) for name in names]
        for example, *encoded in zip(examples, *texts, strict=True):
            yield dict(zip(names, encoded, strict=True)) | {"label": np.array([example[label]], np.float64)}

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        labels = np.array([self.columns[split]["label"].row(index)[0] for index in indices])
        labels = labels.astype(np.float32 if self.config.num_labels == 1 else np.int32)
        parts = [self._cut(split, index) for index in indices]
        make = of_encoder if self.config.stream == "encoder" else of_decoder
        return make(self.tokenizer, parts, self.sequence_length) | {"labels": labels}

    def _cut(self, split: str, index: int) -> list[np.ndarray]:
        parts = [self.columns[split][column].row(index) for column in self.config.columns]
        lengths = [len(part) for part in parts]
        while sum(lengths) + len(parts) + 1 > self.sequence_length:
            lengths[int(np.argmax(lengths))] -= 1
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]


def of_encoder(tokenizer: Tokenizer, rows: Sequence[Sequence[np.ndarray]], length: int) -> Batch:
    """Features of one or two texts a row for an encoder, the second of another type than the first."""
    cls, sep = [tokenizer.specials["cls"]], [tokenizer.specials["sep"]]
    tokens = [np.concatenate([cls, *(piece for part in parts for piece in (part, sep))]) for parts in rows]
    types = [np.arange(len(row)) >= len(parts[0]) + 2 for row, parts in zip(tokens, rows, strict=True)]
    return encoder_features(*padded(tokens, length)) | {"encoder_token_types": padded(types, length)[0]}


def of_decoder(tokenizer: Tokenizer, rows: Sequence[Sequence[np.ndarray]], length: int) -> Batch:
    """Features of one or two texts a row between start, delimiter and extract."""
    special = tokenizer.specials
    start, delimiter, extract = ([special.get(role, tokenizer.separator)] for role in ("bos", "sep", "cls"))
    tokens = [
        np.concatenate([start, parts[0], *(piece for part in parts[1:] for piece in (delimiter, part)), extract])
        for parts in rows
    ]
    inputs, real = padded(tokens, length)
    later, there = (np.pad(each, ((0, 0), (0, 1)))[:, 1:] for each in (inputs * real, real))
    positions = np.arange(length, dtype=np.int32) * real
    return decoder_batch(inputs * real, later, real.astype(np.int32), positions, there)


build = Classification
