# SPDX-License-Identifier: Apache-2.0
"""BART's noise (Lewis et al. 2020, section 2.2): sentence permutation and text infilling; the text is to be rebuilt.

text                    A b . C d e .         sentences end with a token of . ! ? or a line break
permuted                C d e . A b .
encoder_input_tokens    C M . A M b . M       spans of Poisson lengths behind one mask each, until 30 % are gone;
decoder_target_tokens   A b . C d e .         a span of no tokens puts a mask between two
"""

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.tasks.text import StreamDataset, decoder_features, encoder_features, padded

_ENDS = (b".", b"!", b"?", b"\n")


class Denoising(StreamDataset):
    predicts_all = False

    def prepare(self) -> None:
        self.mask = self.tokenizer.needs(("mask",), "denoising")["mask"]
        self.ends = np.array([piece.rstrip(b" ").endswith(_ENDS) for piece in self.tokenizer.token_bytes])
        counts, mean = np.arange(64), self.config.mean_span_length
        log_p = counts * np.log(mean) - mean - np.cumsum(np.log(np.maximum(counts, 1)))
        self.poisson = np.cumsum(np.exp(log_p))

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        tokens, real = self.raw(split, indices)
        noise = self.noise(split, rows, 4 * self.raw_length, "denoising")
        corrupted = [
            self._corrupt(text[there], numbers) for text, there, numbers in zip(tokens, real, noise, strict=True)
        ]
        encoder = encoder_features(*padded(corrupted, self.config.lengths["encoder"]))
        return encoder | decoder_features(tokens, real, self.config.decoder_start)

    def _corrupt(self, text: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """One text; `noise` holds 4 numbers for each of its tokens and more."""
        order, lengths, places = noise[: len(text)], noise[len(text) : 2 * len(text)], noise[2 * len(text) :]
        if self.config.permute_sentences:
            last = np.flatnonzero(self.ends[text[:-1]]) + 1
            sentences = np.split(text, last)
            text = np.concatenate([sentences[i] for i in np.argsort(order[: len(sentences)], kind="stable")])
        budget = round(len(text) * self.config.mask_rate)
        gone, masks = np.zeros(len(text), bool), np.zeros(len(text) + 1, bool)
        for number, place in zip(lengths, places, strict=False):
            left = budget - int(gone.sum())
            if left <= 0:
                break
            span = min(int(np.searchsorted(self.poisson, number / 2**32)), left)
            start = int(place % (len(text) - span + 1))
            if gone[max(0, start - 1) : start + span + 1].any() or masks[start]:
                continue  # spans neither meet nor touch
            gone[start : start + span], masks[start] = True, True
        pieces = np.where(masks[: len(text)], self.mask, -1)
        out = np.stack([pieces, np.where(gone, -1, text)], axis=1).ravel()
        out = out[out >= 0]
        return np.append(out, self.mask) if masks[-1] else out


build = Denoising
