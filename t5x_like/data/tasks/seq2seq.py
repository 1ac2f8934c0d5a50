# SPDX-License-Identifier: Apache-2.0
"""Sequence to sequence: pairs of texts, with an end each, several in a row where they fit (packing), or one.

With an encoder of 8 and a decoder of 6 tokens, the pairs (7 8 -> 4 5) and (9 6 3 -> 2), the end 1:

    encoder_input_tokens   7 8 1 9 6 3 1 0        decoder_input_tokens    0 4 5 0 2 0
    encoder_segment_ids    1 1 1 2 2 2 2 0        decoder_target_tokens   4 5 1 2 1 0
    encoder_positions      0 1 2 0 1 2 3 0        decoder_segment_ids     1 1 1 2 2 0
                                                  decoder_positions       0 1 2 0 1 0
                                                  decoder_loss_weights    1 1 1 1 1 0

Which pairs share a row follows from the lengths and the split alone: rows are filled once, in the order of the pairs'
hashes, and an epoch visits them in another order, so that a row's number says what it holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.data.packing import Batch, decoder_batch, first_fit
from t5x_like.data.sources import Example
from t5x_like.data.tasks.text import Encoded, TextDataset
from t5x_like.data.tokenizers import Tokenizer

STREAMS = {"encoder": "inputs", "decoder": "targets"}


class Seq2Seq(TextDataset):
    """Pairs; what is longer than its stream is cut, and still ends with an end. `efficiency` is the share of the
    decoder's tokens that are targets, by split."""

    def encode(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> Encoded:
        c = self.config
        inputs = tokenizer.encode_documents([c.prefix + str(example[c.inputs]) for example in examples])
        targets = tokenizer.encode_documents([str(example[c.targets]) for example in examples])
        for one, other in zip(inputs, targets, strict=True):
            yield {"inputs": one, "targets": other}

    def how(self, read: tuple[str, ...]) -> dict[str, Any]:
        return super().how(read) | {"prefix": self.config.prefix}

    def count_rows(self, meta: Mapping[str, Any]) -> tuple[int, int]:
        self.end = self.tokenizer.needs(("eos",), "sequence to sequence")["eos"]
        self.lengths = self.config.lengths
        rows = {split: self._rows(split, self.config.pack) for split in self.columns}
        self.members = {split: np.argsort(of, kind="stable") for split, of in rows.items()}
        self.edges = {
            split: np.searchsorted(np.sort(of), np.arange(of.max(initial=-1) + 2)) for split, of in rows.items()
        }
        used = {split: self._sizes(split)[:, 1] for split in self.columns}
        self.unique_tokens = int(used["train"].sum())
        counts = {split: len(edges) - 1 for split, edges in self.edges.items()}
        room = {split: max(1, count * self.sequence_length) for split, count in counts.items()}
        self.efficiency = {split: float(used[split].sum() / room[split]) for split in counts}
        self.description |= {"packing_efficiency": self.efficiency}
        return counts["train"], counts["held_out"]

    def held_out_pairs(self, count: int) -> list[tuple[list[int], list[int]]]:
        """Up to `count` pairs that are held out: what goes in, with its end, and what is to be written, without one."""
        columns = self.columns["held_out"]
        inputs, targets = ((columns[STREAMS[stream]], self.lengths[stream] - 1) for stream in STREAMS)
        return [
            ([*map(int, inputs[0].row(pair)[: inputs[1]]), self.end], [*map(int, targets[0].row(pair)[: targets[1]])])
            for pair in range(min(count, len(columns["inputs"].starts)))
        ]

    def _sizes(self, split: str) -> np.ndarray:
        """Tokens of every pair with its ends, int64 [N, 2]."""
        lengths = [self.columns[split][column].lengths + 1 for column in STREAMS.values()]
        return np.minimum(np.stack(lengths, axis=1), list(self.lengths.values()))

    def _rows(self, split: str, pack: bool) -> np.ndarray:
        sizes = self._sizes(split)
        return first_fit(sizes, np.array(list(self.lengths.values()))) if pack else np.arange(len(sizes))

    def _make(self, split: str, indices: np.ndarray, rows: np.ndarray) -> Batch:
        batch: Batch = {}
        names = ("input_tokens", "segment_ids", "positions")
        for stream, length in self.lengths.items():
            tokens, segments, positions = (np.zeros((len(indices), length), np.int32) for _ in names)
            for row, index in enumerate(indices):
                at = 0
                first, last = self.edges[split][index : index + 2]
                for number, pair in enumerate(self.members[split][first:last], start=1):
                    text = self.columns[split][STREAMS[stream]].row(pair)[: length - 1]
                    here = slice(at, at + len(text) + 1)
                    tokens[row, here] = [*text, self.end]
                    segments[row, here], positions[row, here] = number, np.arange(len(text) + 1)
                    at += len(text) + 1
            batch |= dict(zip((f"{stream}_{name}" for name in names), (tokens, segments, positions), strict=True))
        targets, segments, positions = (batch[f"decoder_{name}"] for name in names)
        later = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        inputs = np.where(positions > 0, later, self.config.decoder_start) * (segments > 0)
        return batch | decoder_batch(inputs, targets, segments, positions, segments > 0)


build = Seq2Seq
