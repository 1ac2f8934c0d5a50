# SPDX-License-Identifier: Apache-2.0
"""Fill in the middle (Bavarian et al. 2022): some of a window's documents have their middle moved to their end.

    document                   a b c d e f      cut at two characters drawn uniformly: ab, cd and ef
    prefix, suffix, middle     PRE a b SUF e f MID c d END          "PSM"
    suffix, prefix, middle     PRE SUF e f MID a b c d END          "SPM"

Every token is a target. Cuts go by characters, not by tokens, since a cursor stands within a word as often as not; each
part is encoded by itself. Without a token for END the next document's separator is the end. Windows are language
modelling's, and only then cut ("context-level" in the paper), so that a middle comes with its parts; what no longer
fits is taken off the end of the suffix.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from t5x_like.config.data.tokenizers import FIM_ROLES
from t5x_like.data.packing import Batch, windows
from t5x_like.data.tasks.text import StreamDataset
from t5x_like.errors import UserError


def asked(special: Mapping[str, int], prefix: Sequence[int], suffix: Sequence[int]) -> list[int]:
    """Behind what a middle is written: prefix, then suffix."""
    pre, suf, mid = (special[role] for role in FIM_ROLES)
    return [pre, *prefix, suf, *suffix, mid]


class FillInTheMiddle(StreamDataset):
    predicts_all = False

    def prepare(self) -> None:
        self.special = self.tokenizer.needs(FIM_ROLES, "fill in the middle")
        self.end = [self.tokenizer.specials["fim_end"]] if "fim_end" in self.tokenizer.specials else []
        if self.tokenizer.decode(self.tokenizer.encode("a")) != "a":
            raise UserError("data.tokenizer: puts a space before every text, and so into words; accepted: byte, bpe")

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        (stream, starts), most = self.streams[split], self.sequence_length + 1
        noise = self.noise(split, rows, 4 * most, "fill in the middle").reshape(-1, most, 4) / 2**32
        made = []
        for first, numbers in zip(indices * self.sequence_length, noise, strict=True):
            inside = starts[slice(*np.searchsorted(starts, [first + 1, first + most]))] - first
            row, begins = list[int](), list[int]()
            for document, drawn in zip(np.split(stream[first : first + most], inside), numbers, strict=False):
                begins.append(len(row))
                row += self._moved(document.tolist(), drawn, most - len(row))
            made.append(windows(np.array(row[:most]), np.array(begins), np.zeros(1, int), self.sequence_length))
        return {name: np.concatenate([row[name] for row in made]) for name in made[0]} if made else {}

    def _moved(self, document: list[int], drawn: np.ndarray, room: int) -> list[int]:
        """A document or its part in a window, with its middle at its end if it is drawn."""
        if drawn[0] >= self.config.rate:
            return document
        head = document[: document[0] == self.tokenizer.separator]
        text = self.tokenizer.decode_bytes(document[len(head) :]).decode("utf-8", "ignore")  # half characters at edges
        low, high = sorted((drawn[1:3] * (len(text) + 1)).astype(int))
        parts = (text[:low], text[low:high], text[high:])
        prefix, middle, suffix = (tokens.tolist() for tokens in self.tokenizer.encode_documents(parts))
        suffix = suffix[: max(0, room - len([*head, *prefix, *middle, *self.end]) - 3)]
        both = ([], suffix, prefix) if drawn[3] < self.config.suffix_first else (prefix, suffix, [])
        return [*head, *asked(self.special, *both[:2]), *both[2], *middle, *self.end]


build = FillInTheMiddle
