# SPDX-License-Identifier: Apache-2.0
"""Images of which parts are to be hidden: `images_seed` uint32 [B, 2] beside them, by which a model draws which. A
training image has another one every time, a held-out one always the same."""

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.tasks.images import ImageDataset


class MaskedImages(ImageDataset):
    def of_pixels(self, split: str, pixels: np.ndarray, rows: np.ndarray) -> Batch:
        seeds = self.noise(split, rows, 2, "masks").astype(np.uint32)
        return super().of_pixels(split, pixels, rows) | {"images_seed": seeds}


build = MaskedImages
