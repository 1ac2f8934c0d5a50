# SPDX-License-Identifier: Apache-2.0
"""What tasks on images share: `images` float32 [B, height, width, channels], `images_segment_ids`, 1 where one is real
and 0 in a row that fills a batch up, and `labels` int32 [B] where the config names their column."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config.data.images import ImageTaskConfig
from t5x_like.data.dataset import FiniteDataset
from t5x_like.data.examples import Entry, load_examples
from t5x_like.data.images import DRAWS, as_floats, as_pixels, augmented
from t5x_like.data.packing import Batch
from t5x_like.data.sources import BadExample, Example
from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError

_PIXELS_A_TOKEN = 16  # an image counts as so many tokens where work is cut into pieces


class ImageDataset(FiniteDataset):
    """An example a row; `entries` are those of each split."""

    vocab_size = 0
    sequence_length = 1

    config: Any  # the task's own kind of `ImageTaskConfig`

    def __init__(
        self, config: ImageTaskConfig, seed: int, cache_dir: Path | None = None, tokenizer: Tokenizer | None = None
    ):
        examples = load_examples(config, tuple(config.reads))
        self.config, self.fingerprint = config, examples.fingerprint
        self.entries: dict[str, tuple[Entry, ...]] = {"train": examples.train, "held_out": examples.held_out}
        self.unique_tokens = len(examples.train)
        self.description = {
            "source": config.source.kind,
            "task": config.kind,
            "fingerprint": self.fingerprint,
            **{f"{split}_examples": len(entries) for split, entries in self.entries.items()},
            **examples.what_was_skipped,
        }
        super().__init__(len(examples.train), len(examples.held_out), seed)
        self.prepare(cache_dir, tokenizer)

    def prepare(self, cache_dir: Path | None, tokenizer: Tokenizer | None) -> None:
        """What else a task has to know before it makes rows."""

    @property
    def row_size(self) -> int:
        c = self.config
        return max(c.sequence_length, c.image_size**2 * c.channels // _PIXELS_A_TOKEN, 1)

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        entries = [self.entries[split][index] for index in indices]
        return self.features(split, [entry.read() for entry in entries], entries, rows)

    def features(self, split: str, examples: Sequence[Example], entries: Sequence[Entry], rows: np.ndarray) -> Batch:
        """Of examples; `entries` are where they come from, and `rows` as `_make` has them."""
        pixels = [
            self.pixels(example[self.config.image], entry) for example, entry in zip(examples, entries, strict=True)
        ]
        name = self.config.label
        labels = {} if name is None else {"labels": np.array([example[name] for example in examples], np.int32)}
        return self.of_pixels(split, np.stack(pixels) if pixels else self._none, rows) | labels

    @property
    def _none(self) -> np.ndarray:
        c = self.config
        return np.zeros((0, c.image_size, c.image_size, c.channels), np.uint8)

    def of_pixels(self, split: str, pixels: np.ndarray, rows: np.ndarray) -> Batch:
        """uint8 [B, height, width, channels] to features; those of training are augmented."""
        how = self.config.augment
        if how is not None and split == "train":
            draws = self.noise(split, rows, DRAWS, "augment") / 2**32
            pixels = np.stack([augmented(one, how, row) for one, row in zip(pixels, draws, strict=True)])
        ones = np.ones((len(pixels), 1), np.int32)
        return {"images": as_floats(pixels, self.config), "images_segment_ids": ones}

    def pixels(self, value: Any, entry: Entry) -> np.ndarray:
        """An image of the config's size. Raises UserError: it is no image."""
        try:
            return as_pixels(value, self.config.image_size, self.config.channels)
        except BadExample as error:
            raise UserError(f"{entry.source.place(entry.index)}: column {self.config.image!r}: {error}") from None
