# SPDX-License-Identifier: Apache-2.0
"""Prefix language modelling (Raffel et al. 2020, section 3.2.1).

A window of language modelling, but its first tokens may look at one another freely and are not predicted:

    decoder_input_tokens       0 7 8 9 4 5      a prefix of 3, drawn uniformly from 1 to T - 1
    decoder_target_tokens      7 8 9 4 5 6
    decoder_causal_attention   1 1 1 0 0 0
    decoder_loss_weights       0 0 1 1 1 1      the last of the prefix predicts the first after it

The window is one segment, so that the prefix is one text.
"""

import numpy as np

from t5x_like.data.packing import Batch, windows
from t5x_like.data.tasks.text import StreamDataset


class PrefixLM(StreamDataset):
    predicts_all = False

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        batch = windows(*self.streams[split], indices, self.sequence_length)
        real = batch["decoder_segment_ids"] > 0
        most = np.maximum(real.sum(1) - 1, 1)
        prefix = 1 + self.noise(split, rows, 1, "prefix")[:, 0] % most
        place = np.arange(self.sequence_length, dtype=np.int32)
        inside = (place < prefix[:, None]) & real
        return batch | {
            "decoder_segment_ids": real.astype(np.int32),
            "decoder_positions": place * real,
            "decoder_causal_attention": inside.astype(np.int32),
            "decoder_loss_weights": ((place >= prefix[:, None] - 1) & real).astype(np.float32),
        }


build = PrefixLM
