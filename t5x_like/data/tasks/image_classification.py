# SPDX-License-Identifier: Apache-2.0
"""Images and their classes: `images` float32 [B, height, width, channels] from 0 to 1, `labels` int32 [B]."""

from typing import Any

import numpy as np

from t5x_like.config.data.tasks import ImageClassificationConfig
from t5x_like.data.dataset import FiniteDataset
from t5x_like.data.examples import load_examples
from t5x_like.data.packing import Batch
from t5x_like.errors import UserError


class ImageClassification(FiniteDataset):
    def __init__(self, config: ImageClassificationConfig, seed: int, cache_dir: Any = None, tokenizer: Any = None):
        del cache_dir, tokenizer
        examples = load_examples(config, tuple(config.reads))
        self.config, self.entries = config, {"train": examples.train, "held_out": examples.held_out}
        self.vocab_size, self.sequence_length, self.fingerprint = 0, 1, examples.fingerprint
        self.description = {
            "source": config.source.kind,
            "task": config.kind,
            "fingerprint": self.fingerprint,
            **{f"{split}_examples": len(entries) for split, entries in self.entries.items()},
            **examples.what_was_skipped,
        }
        super().__init__(len(examples.train), len(examples.held_out), seed)

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        examples = [self.entries[split][index].read() for index in indices]
        images = [example[self.config.image] for example in examples]
        shapes = sorted({image.shape for image in images})
        if len(shapes) > 1:
            raise UserError(f"data.source: images of shapes {shapes[0]} and {shapes[1]}; expected one shape")
        pixels = np.stack(images).astype(np.float32) / 255
        return {"images": pixels, "labels": np.array([example[self.config.label] for example in examples], np.int32)}


build = ImageClassification
