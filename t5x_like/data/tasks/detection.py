# SPDX-License-Identifier: Apache-2.0
"""Images and the objects in them: `boxes` float32 [B, M, 4], centre and size between 0 and 1, and `box_labels` int32
[B, M] from 1 on, 0 where there is no further object."""

from collections.abc import Sequence

import numpy as np

from t5x_like.data.examples import Entry
from t5x_like.data.packing import Batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.images import ImageDataset


class Detection(ImageDataset):
    def features(self, split: str, examples: Sequence[Example], entries: Sequence[Entry], rows: np.ndarray) -> Batch:
        c = self.config
        boxes = np.zeros((len(examples), c.max_objects, 4), np.float32)
        labels = np.zeros((len(examples), c.max_objects), np.int32)
        for row, example in enumerate(examples):
            count = min(len(example[c.labels]), c.max_objects)
            boxes[row, :count] = np.reshape(example[c.boxes][:count], (count, 4))
            labels[row, :count] = np.asarray(example[c.labels][:count], np.int32) + 1
        return super().features(split, examples, entries, rows) | {"boxes": boxes, "box_labels": labels}


build = Detection
