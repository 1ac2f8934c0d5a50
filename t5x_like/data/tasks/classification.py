# SPDX-License-Identifier: Apache-2.0
"""Classification of texts, or of pairs of texts: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], as BERT reads them.

Features: encoder_input_tokens, encoder_segment_ids, encoder_positions, encoder_token_types (0 for a, 1 for b), labels.
A pair that is too long loses tokens from the end of its longer text, one after another.
"""

from collections.abc import Sequence

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.text import Encoded, TextDataset, encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer


class Framed(TextDataset):
    """Examples one a row, framed by [CLS] and [SEP]."""

    def prepare(self) -> None:
        self.special = self.tokenizer.needs(("cls", "sep"), self.config.kind)


class Classification(Framed):
    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        names, label = self.config.columns, self.config.label
        texts = [tokenizer.encode_documents([str(example[name]) for example in examples]) for name in names]
        for example, *encoded in zip(examples, *texts, strict=True):
            yield dict(zip(names, encoded, strict=True)) | {"label": np.array([example[label]], np.int32)}

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


build = Classification
