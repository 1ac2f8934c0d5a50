# SPDX-License-Identifier: Apache-2.0
"""Images as tokens for a decoder (van den Oord et al. 2017): each patch is the nearest of K vectors, its code, and
codes follow the image's class, row by row.

Token 0 fills up, 1 to K are codes, and the next ones classes. With 2 x 2 patches, K = 8 and class 3:

    decoder_input_tokens    12 5 1 8        decoder_target_tokens    5 1 8 2

Differs from the paper: the vectors are the means that k-means finds of the training patches, not an encoder's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t5x_like.data.dataset import random_stream
from t5x_like.data.examples import Entry
from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.sources import Example
from t5x_like.data.tasks.images import ImageDataset
from t5x_like.data.tokenizers import Tokenizer

_MOST = 50_000  # patches that the vectors are found on


class ImageTokens(ImageDataset):
    """Attributes: the `codebook`, float32 [K, pixels]."""

    def prepare(self, cache_dir: Path | None, tokenizer: Tokenizer | None) -> None:
        from scipy.cluster.vq import kmeans2

        c = self.config
        self.sequence_length, self.vocab_size = c.sequence_length, c.vocab_size
        images = -(-_MOST // c.sequence_length)
        pixels = [self.pixels(entry.read()[c.image], entry) for entry in self.entries["train"][:images]]
        patches = self._patches(np.stack(pixels))
        generator = np.random.Generator(random_stream("codebook"))
        self.codebook, _ = kmeans2(patches, c.codes, minit="++", rng=generator)

    def _patches(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, height, width, channels] to float32 [B P, pixels]."""
        c = self.config
        batch, side, size = len(pixels), c.image_size // c.patch_size, c.patch_size
        x = pixels.reshape(batch, side, size, side, size, c.channels).swapaxes(2, 3)
        return x.reshape(-1, size * size * c.channels).astype(np.float32) / 255

    def codes(self, pixels: np.ndarray) -> np.ndarray:
        """int32 [B, P], from 0 on."""
        from scipy.cluster.vq import vq

        return vq(self._patches(pixels), self.codebook)[0].reshape(len(pixels), -1).astype(np.int32)

    def images(self, codes: np.ndarray) -> np.ndarray:
        """Codes int [B, P] to uint8 [B, height, width, channels]."""
        c = self.config
        side, size = c.image_size // c.patch_size, c.patch_size
        x = self.codebook[codes].reshape(len(codes), side, side, size, size, c.channels).swapaxes(2, 3)
        x = x.reshape(len(codes), c.image_size, c.image_size, c.channels)
        return np.rint(255 * x).clip(0, 255).astype(np.uint8)

    def features(self, split: str, examples: Sequence[Example], entries: Sequence[Entry], rows: np.ndarray) -> Batch:
        c, labels = self.config, np.array([example[self.config.label] for example in examples], np.int32)
        pixels = [self.pixels(example[c.image], entry) for example, entry in zip(examples, entries, strict=True)]
        targets = 1 + self.codes(np.stack(pixels) if pixels else self._none)
        inputs = np.concatenate([1 + c.codes + labels[:, None], targets[:, :-1]], axis=1)
        return decoder_batch(inputs, targets)


build = ImageTokens
