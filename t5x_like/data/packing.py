# SPDX-License-Identifier: Apache-2.0
"""Packing: documents in one stream of tokens, cut into windows of equal length.

The stream S is every document behind a separator, one after another. Window w of length T takes the T + 1 tokens from
S[w T] on: the first T are its inputs, the last T its targets, so consecutive windows share one token and every token
of the stream but the first is a target exactly once. With T = 6, the separator 0, and the documents (7 8 9) and
(4 5 6 4 5), the stream fills one window and half of another:

    stream                    0 7 8 9 0 4 | 5 6 4 5          starts: 0, 4

    window 0                                    window 1
    decoder_input_tokens      0 7 8 9 0 4       5 6 4 0 0 0
    decoder_target_tokens     7 8 9 0 4 5       6 4 5 0 0 0
    decoder_segment_ids       1 1 1 1 2 2       1 1 1 0 0 0
    decoder_positions         0 1 2 3 0 1       0 1 2 0 0 0
    decoder_loss_weights      1 1 1 1 1 1       1 1 1 0 0 0

A document's last token has the next separator as its target: "here the text ends". A document that is cut by a window's
edge starts anew there, with segment 1 and position 0. What lies past the end of the stream is padding: token 0, segment
0, position 0, weight 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]
# Not 0 where a token counts, or an image.
COUNTED = ("decoder_loss_weights", "encoder_loss_weights", "encoder_segment_ids", "images_segment_ids")


class Ragged(NamedTuple):
    """Arrays of different lengths as one."""

    stream: np.ndarray  # every array behind a separator, one after another
    starts: np.ndarray  # where their separators are, ascending int64

    @property
    def lengths(self) -> np.ndarray:
        """Of every array, without its separator."""
        return np.diff(self.starts, append=len(self.stream)) - 1

    def row(self, index: int) -> np.ndarray:
        """One of the arrays."""
        last = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.stream)
        return self.stream[self.starts[index] + 1 : last]


def pack(documents: Sequence[np.ndarray], separator: int, dtype: np.dtype | None = None) -> Ragged:
    """Joins arrays of tokens, integers [tokens] each, into a stream with a separator before each."""
    lengths = np.array([len(document) + 1 for document in documents], np.int64)
    starts = np.cumsum(lengths) - lengths
    stream = np.full(lengths.sum(), separator, dtype or (documents[0].dtype if documents else np.uint16))
    for start, document in zip(starts, documents, strict=True):
        stream[start + 1 : start + 1 + len(document)] = document
    return Ragged(stream, starts)


def first_fit(sizes: np.ndarray, room: np.ndarray, open_rows: int = 64) -> np.ndarray:
    """Which row each example goes to: the first of the last rows opened that has room for it, else a new one.

    `sizes` [N, streams] are the lengths of the examples in order, at most `room` [streams], those of a row; `open_rows`
    rows are looked at. Returns int [N], ascending in the order in which rows are opened.
    """
    rows = np.zeros(len(sizes), np.int64)
    free = np.zeros((0, len(room)), np.int64)
    first = 0  # number of the first open row
    for index, size in enumerate(sizes):
        fits = np.flatnonzero((free >= size).all(axis=1))
        if fits.size:
            place = fits[0]
        else:
            free = np.concatenate([free, room[None]])
            if len(free) > open_rows:
                free, first = free[1:], first + 1
            place = len(free) - 1
        free[place] -= size
        rows[index] = first + place
    return rows


def count_targets(batch: Batch) -> np.ndarray:
    """How many tokens of stacked batches [K, B, ...] are targets, or real where texts have labels, [K]; else rows.

    Counted, not added up from weights: those need not be 1, and float32 sums of many lose the last digits.
    """
    for name in COUNTED:
        if name in batch:
            return np.count_nonzero(batch[name], axis=tuple(range(1, batch[name].ndim)))
    first = next(iter(batch.values()))
    return np.full(first.shape[0], first.shape[1])


def decoder_batch(
    inputs: np.ndarray,
    targets: np.ndarray,
    segments: np.ndarray | None = None,
    positions: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Batch:
    """The five `decoder_*` features, [B, T] each: one segment with weights of 1, unless something else is said."""
    places = np.tile(np.arange(inputs.shape[1], dtype=np.int32), (len(inputs), 1))
    return {
        "decoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_segment_ids": np.ones(inputs.shape, np.int32) if segments is None else segments,
        "decoder_positions": places if positions is None else positions,
        "decoder_loss_weights": np.ones(inputs.shape, np.float32) if weights is None else weights.astype(np.float32),
    }


def num_windows(stream_length: int, length: int) -> int:
    """How many windows of `length` have at least one target in a stream of `stream_length` tokens."""
    return -(-(stream_length - 1) // length)


def windows(stream: np.ndarray, document_starts: np.ndarray, indices: np.ndarray, length: int) -> Batch:
    """Cuts windows out of a stream, as in the example above.

    Args:
      stream: tokens, integers [S].
      document_starts: where the documents begin, ascending int64 [documents]; the first is 0.
      indices: which windows, integers [B], in any order; those past the stream's end are all padding.
      length: T of the features, int32, the weights float32.
    """
    begins = np.asarray(indices, np.int64) * length
    places = begins[:, None] + np.arange(length + 1)
    ends_inside = begins.size == 0 or int(begins.max()) + length < len(stream)
    tokens = stream[places if ends_inside else np.minimum(places, len(stream) - 1)].astype(np.int32)
    segments, positions = _segments(document_starts, begins, length)
    batch = decoder_batch(tokens[:, :-1], tokens[:, 1:], segments, positions)
    if not ends_inside:
        real = places[:, 1:] < len(stream)
        batch = {name: value * real.astype(value.dtype) for name, value in batch.items()}
    return batch


def _segments(starts: np.ndarray, begins: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns segment ids and positions, int32 [B, T], of windows that begin at `begins`.

    Few windows hold the start of a document, so starts are scattered into the windows rather than looked up for
    every token.
    """
    first = np.searchsorted(starts, begins, side="right")  # the first document to start within, past the window's edge
    counts = np.searchsorted(starts, begins + length, side="left") - first
    segments = np.ones((len(begins), length), np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), segments.shape).copy()
    (touched,) = np.nonzero(counts)
    if touched.size:
        counts = counts[touched]
        rows = np.repeat(np.arange(touched.size), counts)
        within = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = starts[first[touched][rows] + within] - begins[touched][rows]
        last_start = np.zeros((touched.size, length), np.int32)
        last_start[rows, columns] = columns
        segments[touched] += np.cumsum(last_start > 0, axis=1, dtype=np.int32)
        positions[touched] -= np.maximum.accumulate(last_start, axis=1)
    return segments, positions
