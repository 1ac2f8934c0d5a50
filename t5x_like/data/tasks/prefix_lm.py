# SPDX-License-Identifier: Apache-2.0
"""Prefix language modelling (Raffel et al. 2020, section 3.2.1).

A window of language modelling, but its first tokens may look at one another freely and are not predicted. Of the window
0 7 8 9 4 5 6 with a prefix of 3, drawn uniformly from 1 to T - 1, a decoder alone gets the left, and with
`encoder=True` an encoder and a decoder get the right, and predict the same tokens:

    decoder_input_tokens       0 7 8 9 4 5           encoder_input_tokens    0 7 8 0 0 0
    decoder_target_tokens      7 8 9 4 5 6           decoder_input_tokens    0 9 4 5 0 0
    decoder_causal_attention   1 1 1 0 0 0           decoder_target_tokens   9 4 5 6 0 0
    decoder_loss_weights       0 0 1 1 1 1           decoder_loss_weights    1 1 1 1 0 0

The last of the prefix predicts the first after it; a decoder that has an encoder begins with the model's start token.
The window is one segment, so that the prefix is one text.
"""

import numpy as np

from t5x_like.data.packing import Batch, windows
from t5x_like.data.tasks.text import StreamDataset, decoder_features, encoder_features


class PrefixLM(StreamDataset):
    predicts_all = False

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        batch = windows(*self.streams[split], indices, self.sequence_length)
        real = batch["decoder_segment_ids"] > 0
        most = np.maximum(real.sum(1) - 1, 1)
        prefix = 1 + self.noise(split, rows, 1, "prefix") % most[:, None]
        place = np.arange(self.sequence_length, dtype=np.int32)
        inside, predicted = (place < prefix) & real, (place >= prefix - 1) & real
        if self.config.encoder:
            left = place < predicted.sum(1)[:, None]
            targets = np.zeros_like(batch["decoder_target_tokens"])
            targets[left] = batch["decoder_target_tokens"][predicted]  # as many in every row
            return encoder_features(batch["decoder_input_tokens"], inside) | decoder_features(
                targets, left, self.config.decoder_start
            )
        return batch | {
            "decoder_segment_ids": real.astype(np.int32),
            "decoder_positions": place * real,
            "decoder_causal_attention": inside.astype(np.int32),
            "decoder_loss_weights": predicted.astype(np.float32),
        }


build = PrefixLM
