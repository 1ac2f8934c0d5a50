# SPDX-License-Identifier: Apache-2.0
"""Text that comes token by token: whole characters only, up to a stop string."""

import codecs
from collections.abc import Iterable, Sequence

from t5x_like.data.tokenizers import Tokenizer


class TextStream:
    """Turns tokens into text as they come.

    What is returned is final: half a character waits for its other bytes, and what may be the beginning of a stop
    string waits until it is one or is not. Text ends before the stop string
    that is complete first, however tokens are dealt out to calls.

    Attributes:
      finished: whether a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = ()):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stop for stop in stop_strings if stop)
        self._held = ""
        self.finished = False

    def add(self, tokens: Iterable[int], final: bool = False) -> str:
        """Returns the text that is certain after these tokens; with `final`, all there is."""
        if self.finished:
            return ""
        text = self._held + self._decoder.decode(self._tokenizer.decode_bytes(tokens), final)
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.finished, self._held = True, ""
            return text[: min(found)[1]]
        hold = 0 if final else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:n]))
