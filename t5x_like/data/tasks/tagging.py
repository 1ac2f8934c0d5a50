# SPDX-License-Identifier: Apache-2.0
"""Tagging: a label for every word, carried by its first piece (Devlin et al. 2019, section 5.3).

words                   Jim   Henson   was   a                      tags  1 2 0 0
encoder_input_tokens    [CLS] Jim Hen ##son was a [SEP]
encoder_target_tokens     0    1   2    0    0  0   0
encoder_loss_weights      0    1   1    0    1  1   0
"""

from collections.abc import Sequence

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.classification import Framed
from t5x_like.data.tasks.text import Encoded, encoder_features, padded
from t5x_like.data.tokenizers import Tokenizer


class Tagging(Framed):
    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        room, columns = self.sequence_length - 2, self.columns[split]
        cls, sep = self.special["cls"], self.special["sep"]
        tokens = [np.array([cls, *columns["words"].row(index)[:room], sep]) for index in indices]
        tags = [np.array([-1, *columns["tags"].row(index)[:room], -1]) for index in indices]
        targets, real = padded(tags, self.sequence_length)
        weighted = real & (targets >= 0)
        return encoder_features(*padded(tokens, self.sequence_length)) | {
            "encoder_target_tokens": targets * weighted,
            "encoder_loss_weights": weighted.astype(np.float32),
        }

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        for example in examples:
            words, tags = example[self.config.words], example[self.config.tags]
            pieces = [tokenizer.encode(word if not number else " " + word) for number, word in enumerate(words)]
            labels = [[tag, *[-1] * (len(piece) - 1)] for tag, piece in zip(tags, pieces, strict=True) if len(piece)]
            yield {"words": np.concatenate(pieces), "tags": np.array([tag for row in labels for tag in row], np.int32)}


build = Tagging
