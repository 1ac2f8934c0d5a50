# SPDX-License-Identifier: Apache-2.0
"""Images and their classes: `labels` int32 [B] beside the images."""

from collections.abc import Sequence

import numpy as np

from t5x_like.data.examples import Entry
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.images import ImageDataset


class ImageClassification(ImageDataset):
    def features(self, split: str, examples: Sequence[Example], entries: Sequence[Entry], rows: np.ndarray) -> Batch:
        labels = np.array([example[self.config.label] for example in examples], np.int32)
        return super().features(split, examples, entries, rows) | {"labels": labels}


build = ImageClassification
