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

    def features(self, rows: Sequence[Sequence[np.ndarray]], labels: np.ndarray) -> Batch:
        """Of one or two texts a row, the second of another type than the first."""
        cls, sep = [self.special["cls"]], [self.special["sep"]]
        tokens = [np.concatenate([cls, *(piece for part in parts for piece in (part, sep))]) for parts in rows]
        types = [np.arange(len(row)) >= len(parts[0]) + 2 for row, parts in zip(tokens, rows, strict=True)]
        more = {"encoder_token_types": padded(types, self.sequence_length)[0], "labels": labels}
        return encoder_features(*padded(tokens, self.sequence_length)) | more


class Classification(Framed):
    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        names, label = self.config.columns, self.config.label
        texts = [tokenizer.encode_documents([str(example[name]) for example in examples]) for name in names]
        for example, *encoded in zip(examples, *texts, strict=True):
            yield dict(zip(names, encoded, strict=True)) | {"label": np.array([example[label]], np.float64)}

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        labels = np.array([self.columns[split]["label"].row(index)[0] for index in indices])
        labels = labels.astype(np.float32 if self.config.num_labels == 1 else np.int32)
        return self.features([self._cut(split, index) for index in indices], labels)

    def _cut(self, split: str, index: int) -> list[np.ndarray]:
        parts = [self.columns[split][column].row(index) for column in self.config.columns]
        lengths = [len(part) for part in parts]
        while sum(lengths) + len(parts) + 1 > self.sequence_length:
            lengths[int(np.argmax(lengths))] -= 1
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]


build = Classification
