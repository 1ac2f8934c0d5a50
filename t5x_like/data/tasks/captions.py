# SPDX-License-Identifier: Apache-2.0
"""Images and what is said of them: beside the images `text_tokens` and `text_segment_ids`, int32 [B, T].

A text begins with the token of the role bos where there is one, and ends with the one that separates documents, cut or
not. With the end 3 and room for 6: text_tokens 14 9 3 0 0 0, text_segment_ids 1 1 1 0 0 0.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5x_like.data.cache import tokenised
from t5x_like.data.examples import Examples
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.images import ImageDataset
from t5x_like.data.tasks.text import Encoded, padded
from t5x_like.data.tokenizers import Tokenizer


class Captions(ImageDataset):
    """An example a row, whose text comes out of the cache."""

    tokenizer: Tokenizer

    def prepare(self, cache_dir: Path | None, tokenizer: Tokenizer | None) -> None:
        c, examples = self.config, Examples(self.entries["train"], self.entries["held_out"])
        text = tokenised(c, examples, self._encode, {"task": c.kind, "column": c.caption}, cache_dir, tokenizer)
        self.tokenizer, self.vocab_size = text.tokenizer, text.tokenizer.vocab_size
        self._captions = {"train": text.train["text"], "held_out": text.held_out["text"]}
        self.fingerprint = f"{self.fingerprint}-{text.meta['fingerprint']}"

    def _encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        texts = tokenizer.encode_documents([str(example[self.config.caption]) for example in examples])
        return ({"text": tokens} for tokens in texts)

    def of_texts(self, texts: Sequence[np.ndarray]) -> Batch:
        """Features of texts, tokens without start and end."""
        length, special = self.config.text_length, self.tokenizer.specials
        start, end = [special[role] for role in ("bos",) if role in special], [self.tokenizer.separator]
        rows = [np.concatenate([[*start, *text][: length - 1], end]) for text in texts]
        tokens, there = padded(rows, length)
        tokens[~there] = special.get("pad", 0)
        return {"text_tokens": tokens, "text_segment_ids": there.astype(np.int32)}

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        return super()._make(split, indices, rows) | self.of_texts([self._captions[split].row(i) for i in indices])


build = Captions
