# SPDX-License-Identifier: Apache-2.0
"""Span corruption (Raffel et al. 2020, section 3.1.4), with the lengths of the paper's code.

Of L tokens n are noise, in s spans: lengths of spans and of what lies between them are drawn uniformly among all ways
to cut n, and L - n, into s parts; a window begins with text and ends with noise. With L = 9, n = 4, s = 2:

    text                    a b c d e f g h i      noise: c d and g h i cut to two tokens each
    encoder_input_tokens    a b X e f Y .          L - n + s tokens and an end
    decoder_target_tokens   X c d Y h i .          n + s tokens and an end

Differs from the paper's figure, as its code does: no last sentinel stands behind the last span.
"""

from functools import cached_property

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.tasks.text import StreamDataset, decoder_features, encoder_features


class SpanCorruption(StreamDataset):
    predicts_all = False

    @cached_property
    def raw_length(self) -> int:
        return self.config.raw_length

    def prepare(self) -> None:
        self.sizes = self.config.sizes(self.raw_length)
        self.end = self.tokenizer.needs(("eos",), "span corruption", self.sizes[1])["eos"]
        # Windows that are not whole would have other lengths.
        whole = max(1, len(self.streams["held_out"].stream) // self.raw_length)
        self.counts["held_out"], self._held_out_order = whole, self._held_out_order[self._held_out_order < whole]

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        tokens, _ = self.raw(split, indices)
        noise, spans, _, _ = self.sizes
        numbers = self.noise(split, rows, self.raw_length - 2, "spans")
        mask = noise_mask(numbers, self.raw_length, noise, spans)
        sentinels = np.array(self.tokenizer.sentinels[:spans], np.int32)
        encoder = _with_sentinels(tokens, mask, sentinels, self.end)
        decoder = _with_sentinels(tokens, ~mask, sentinels, self.end)
        missing = self.config.encoder_length - encoder.shape[1]
        real = np.pad(np.ones(encoder.shape, bool), ((0, 0), (0, missing)))
        features = encoder_features(np.pad(encoder, ((0, 0), (0, missing))), real)
        return features | decoder_features(decoder, np.ones(decoder.shape, bool), self.config.decoder_start)


def noise_mask(numbers: np.ndarray, length: int, noise: int, spans: int) -> np.ndarray:
    """Which tokens are noise, bool [B, length], exactly `noise` of them in exactly `spans` runs; the first is not.

    Args:
      numbers: random, int64 [B, length - 2]; their order cuts both kinds of token into parts.
      length, noise, spans: sizes; 1 <= spans <= noise, length - noise.
    """
    noise_parts = _parts(numbers[:, : noise - 1], noise, spans)
    text_parts = _parts(numbers[:, noise - 1 :], length - noise, spans)
    ends = np.cumsum(np.stack([text_parts, noise_parts], axis=2).reshape(len(numbers), -1), axis=1)
    changes = np.zeros((len(numbers), length + 1), np.int64)
    np.put_along_axis(changes, ends, 1, axis=1)
    return np.cumsum(changes[:, :length], axis=1) % 2 == 1


def _parts(numbers: np.ndarray, total: int, parts: int) -> np.ndarray:
    """Cuts `total` into `parts` of at least 1, all ways alike, [B, parts], by total - 1 random numbers a row."""
    cuts = np.sort(np.argsort(numbers, axis=1, kind="stable")[:, : parts - 1], axis=1) + 1
    return np.diff(cuts, axis=1, prepend=0, append=total)


def _with_sentinels(tokens: np.ndarray, mask: np.ndarray, sentinels: np.ndarray, end: int) -> np.ndarray:
    """Puts a sentinel in the place of every run where `mask` is true, and an end; all rows come out as long."""
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    starts = mask & ~before
    number = np.cumsum(starts, axis=1) - 1
    out = np.where(starts, sentinels[np.maximum(number, 0)], tokens)
    kept = out[starts | ~mask].reshape(len(tokens), -1)
    return np.pad(kept, ((0, 0), (0, 1)), constant_values=end).astype(np.int32)


build = SpanCorruption
