# SPDX-License-Identifier: Apache-2.0
"""Questions whose answer is a span of a text (Devlin et al. 2019, section 4.2).

encoder_input_tokens   [CLS] who sat ? [SEP] the cat sat . [SEP]
encoder_token_types      0    0   0  0   0    1   1   1  1   1       labels  5 6: the first and the last token
"""

from collections.abc import Sequence

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.classification import Framed
from t5x_like.data.tasks.text import Encoded
from t5x_like.data.tokenizers import Tokenizer


class Span(Framed):
    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        c = self.config
        for example in examples:
            tokens, ends = tokenizer.encode_with_ends(str(example[c.context]))
            start = example[c.answer_start]
            answer = span_of(ends, start, start + len(example[c.answer].rstrip()))
            question = tokenizer.encode(str(example[c.question]))
            yield {"question": question, "context": tokens, "answer": answer}

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        texts, labels = [], []
        for index in indices:
            question, context, (first, last) = (column.row(index) for column in self.columns[split].values())
            question = question[: (self.sequence_length - 3) // 2]
            room = self.sequence_length - 3 - len(question)
            half = max(1, room // 2)
            start = min(first, max(0, -(-(last + 1 - room) // half)) * half)  # of the first window that has the last
            texts.append([question, context[start : start + room]])
            labels.append([place - start + len(question) + 2 for place in (first, min(last, start + room - 1))])
        return self.features(texts, np.array(labels, np.int32))


def span_of(ends: np.ndarray, start: int, stop: int) -> np.ndarray:
    """The first and the last token that have some of the characters [start, stop), by the `ends` of all tokens.

    A character may have several tokens, which all end behind it.
    """
    last = ends[np.minimum(np.searchsorted(ends, stop), len(ends) - 1)]
    return (np.searchsorted(ends, np.array([start, last]) + 1) - [0, 1]).astype(np.int32)


build = Span
