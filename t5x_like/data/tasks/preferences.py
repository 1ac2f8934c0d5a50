# SPDX-License-Identifier: Apache-2.0
"""Two answers to a prompt side by side in a row, as two texts that do not see one another: segment 1 is preferred.

decoder_input_tokens   0 7 8 4 5 0 7 8 6 0      decoder_segment_ids    1 1 1 1 1 2 2 2 2 0
decoder_target_tokens  7 8 4 5 0 7 8 6 0 0      decoder_loss_weights   0 0 1 1 1 0 0 1 1 0
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.data.chat_template import ChatTemplate
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.conversations import Said, rows_of, said
from t5x_like.data.tasks.text import Encoded, TextDataset
from t5x_like.data.tokenizers import Tokenizer

NAMES = ("chosen", "rejected")


class Preferences(TextDataset):
    """See above."""

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        c = self.config
        template = ChatTemplate.named(c.template) if c.chat else None
        for example in examples:
            row: dict[str, np.ndarray] = {}
            for name, column in zip(NAMES, (c.chosen, c.rejected), strict=True):
                told: Any = str(example[c.prompt]), str(example[column])
                if c.chat:
                    told = [{"role": "user", "content": told[0]}, {"role": "assistant", "content": told[1]}]
                row[name], row[f"{name}_learnt"] = said(tokenizer, told, template)
            yield row

    def how(self, read: tuple[str, ...]) -> dict[str, Any]:
        template = ChatTemplate.named(self.config.template) if self.config.chat else None
        return super().how(read) | {"template": template and template.fingerprint}

    def count_rows(self, meta: Mapping[str, Any]) -> tuple[int, int]:
        self.unique_tokens = sum(int(self.columns["train"][f"{name}_learnt"].stream.sum()) for name in NAMES)
        return super().count_rows(meta)

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        parts, count = 3 if self.config.mismatched else 2, len(self.columns[split]["chosen"].starts)
        of_row = []
        for index in map(int, indices):
            row = [self._said(split, name, index) for name in NAMES]
            if self.config.mismatched:
                row.append(_exchanged(row[0], self._said(split, "chosen", (index + 1) % count)))
            of_row.append(row)
        return rows_of(of_row, self.sequence_length, self.sequence_length // parts)

    def _said(self, split: str, name: str, index: int) -> Said:
        columns = self.columns[split]
        return columns[name].row(index), columns[f"{name}_learnt"].row(index)


def _exchanged(asked: Said, answered: Said) -> Said:
    """The prompt of one with the answer of another."""
    prompt, answer = asked[1] == 0, answered[1] > 0
    return tuple(np.concatenate([one[prompt], other[answer]]) for one, other in zip(asked, answered, strict=True))  # type: ignore[return-value]


build = Preferences
