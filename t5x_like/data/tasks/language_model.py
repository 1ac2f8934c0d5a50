# SPDX-License-Identifier: Apache-2.0
"""Language modelling: windows of the stream, each token predicts the next; see `packing` for what a batch holds."""

import numpy as np

from t5x_like.data.packing import Batch, windows
from t5x_like.data.tasks.text import StreamDataset


class LanguageModel(StreamDataset):
    """Consecutive windows share one token, so that every token but the first is a target once in an epoch."""

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        return windows(*self.streams[split], indices, self.sequence_length)


build = LanguageModel
