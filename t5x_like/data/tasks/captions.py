# SPDX-License-Identifier: Apache-2.0
"""Images and what is said of them: beside the images `text_tokens` and `text_segment_ids`, int32 [B, T].

A text begins with the token of the role bos where the tokenizer has one, and ends with the one that separates
documents; one that is too long is cut, and still ends so. With the end 3 and room for 6:

    text_tokens        14 9 3 0 0 0        text_segment_ids   1 1 1 0 0 0
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from t5x_like.data.cache import tokenised
from t5x_like.data.examples import Examples
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.images import ImageDataset
from t5x_like.data.tasks.text import padded
from t5x_like.data.tokenizers import Tokenizer


class Captions(ImageDataset):
    """Examples one a row.

    Attributes:
      captions: {split: the tokens of its texts, without start and end}.
    """

    tokenizer: Tokenizer

    def prepare(self, cache_dir: Path | None, tokenizer: Tokenizer | None) -> None:
        c, examples = self.config, Examples(**self.entries)
        text = tokenised(c, examples, self._encode, {"task": c.kind, "column": c.caption}, cache_dir, tokenizer)
        self.tokenizer, self.vocab_size = text.tokenizer, text.tokenizer.vocab_size
        self.captions = {"train": text.train["text"], "held_out": text.held_out["text"]}
        self.fingerprint = f"{self.fingerprint}-{text.meta['fingerprint']}"

    def _encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[Mapping[str, np.ndarray]]:
        texts = [str(example[self.config.caption]) for example in examples]
        return ({"text": tokens} for tokens in tokenizer.encode_documents(texts))

    def of_texts(self, texts: Sequence[np.ndarray]) -> Batch:
        """Features of texts, [tokens] each."""
        length, special = self.config.text_length, self.tokenizer.specials
        start = [special["bos"]] if "bos" in special else []
        rows = [[*start, *text][: length - 1] + [self.tokenizer.separator] for text in texts]
        tokens, there = padded([np.array(row) for row in rows], length)
        padding = special.get("pad", 0)
        return {"text_tokens": np.where(there, tokens, padding), "text_segment_ids": there.astype(np.int32)}

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        texts = [self.captions[split].row(index) for index in indices]
        return super()._make(split, indices, rows) | self.of_texts(texts)


build = Captions
