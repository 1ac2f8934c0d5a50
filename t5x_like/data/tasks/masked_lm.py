# SPDX-License-Identifier: Apache-2.0
"""Masked language modelling (Devlin et al. 2019, section 3.1), and the next-sentence task beside it.

    encoder_input_tokens    [CLS] the [MASK] sat on cow mat [SEP]     of 15 % of the tokens: 8 of 10 masked, 1 another
    encoder_target_tokens     0    0   cat    0  0  the  0    0       token, 1 as it was
    encoder_loss_weights      0    0    1     0  0   1   0    0

Exactly that share of a window's tokens is chosen, rounded, at least one; by whole words, words until there are as many.

Differs from the paper: windows are cut from a stream of documents, so they begin and end within sentences (Liu et al.
2019, FULL-SENTENCES); and the second part of a next-sentence window is the text that follows, or one from elsewhere.
"""

from functools import cached_property

import numpy as np

from t5x_like.data.packing import Batch
from t5x_like.data.tasks.text import StreamDataset, encoder_features


class MaskedLM(StreamDataset):
    predicts_all = False

    @cached_property
    def raw_length(self) -> int:
        return self.sequence_length - (3 if self.config.next_sentence else 2)

    def prepare(self) -> None:
        self.special = self.tokenizer.needs(("mask", "cls", "sep"), "masked language modelling")
        pieces = self.tokenizer.token_bytes
        self.ordinary = np.array([i for i, piece in enumerate(pieces) if piece], np.int32)
        self.starts_word = self.tokenizer.word_starts

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        c, length = self.config, self.sequence_length
        body, real = self.raw(split, indices)
        if not c.dynamic:
            rows = indices
        noise = self.noise(split if c.dynamic else "static", rows, 3 * length + 4, "masks")
        types, more = np.zeros((len(body), length), np.int32), {}
        if c.next_sentence:
            real, tokens, types, more = self._pairs(split, body, real, noise[:, 3 * length :])
        else:
            tokens = np.full((len(body), length), self.special["cls"], np.int32)
            tokens[:, 1:-1], tokens[:, -1] = body, self.special["sep"]
            real = np.pad(real, ((0, 0), (1, 1)), constant_values=True)
        allowed = real & np.isin(tokens, self.ordinary)
        chosen = self._chosen(tokens, allowed, noise[:, :length])
        kind = noise[:, length : 2 * length] % 10
        other = self.ordinary[noise[:, 2 * length : 3 * length] % len(self.ordinary)]
        masked = np.where(kind < 8, self.special["mask"], np.where(kind == 8, other, tokens))
        features = encoder_features(np.where(chosen, masked, tokens), real)
        return features | {
            "encoder_token_types": types,
            "encoder_target_tokens": tokens * chosen,
            "encoder_loss_weights": chosen.astype(np.float32),
            **more,
        }

    def _chosen(self, tokens: np.ndarray, allowed: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Which tokens are predicted: those of the lowest numbers, or the words of the lowest numbers."""
        wanted = np.maximum(np.rint(allowed.sum(1) * self.config.mask_rate).astype(int), 1)
        words = np.cumsum(self.starts_word[tokens] | ~allowed, axis=1) if self.config.whole_words else None
        chosen = np.zeros_like(allowed)
        for row in range(len(tokens)):
            (places,) = np.nonzero(allowed[row])
            if words is None:
                chosen[row, places[np.argsort(noise[row, places], kind="stable")[: wanted[row]]]] = True
                continue
            of_word = words[row, places]
            numbers, first = np.unique(of_word, return_index=True)
            for word in numbers[np.argsort(noise[row, places[first]], kind="stable")]:
                if chosen[row].sum() >= wanted[row]:
                    break
                chosen[row, places[of_word == word]] = True
        return chosen

    def _pairs(self, split: str, body: np.ndarray, real: np.ndarray, noise: np.ndarray) -> tuple:
        """[CLS] a [SEP] b [SEP]: b follows a, or comes from a random place; `labels` says which."""
        stream, half = self.streams[split].stream, (self.raw_length + 1) // 2
        apart = noise[:, 0] % 2 == 1
        rest = self.raw_length - half
        places = noise[:, 1] % max(1, len(stream) - rest)
        other = stream[np.minimum(places[:, None] + np.arange(rest), len(stream) - 1)]
        second = np.where(apart[:, None], other, body[:, half:])
        cls, sep = (np.full((len(body), 1), self.special[role], np.int32) for role in ("cls", "sep"))
        yes = np.ones((len(body), 1), bool)
        tokens = np.concatenate([cls, body[:, :half], sep, second, sep], axis=1).astype(np.int32)
        second_real = real[:, half:] | apart[:, None]
        real = np.concatenate([yes, real[:, :half], yes, second_real, yes], axis=1)
        types = np.broadcast_to(np.arange(tokens.shape[1]) >= half + 2, tokens.shape).astype(np.int32)
        return real, tokens, types, {"labels": apart.astype(np.int32)}


build = MaskedLM
