# SPDX-License-Identifier: Apache-2.0
"""Rows of several documents of uneven lengths, for timing."""

import numpy as np

SEGMENTS = 4  # of a packed row


def packed_rows(rows: int, length: int, segments: int = SEGMENTS) -> dict[str, np.ndarray]:
    """The segment ids and positions [rows, length] of documents that have 3, 7, 5, 5, 3, ... parts of a row."""
    shares = np.resize([3, 7, 5, 5], segments)
    ends = np.rint(np.cumsum(shares / shares.sum()) * length).astype(int)
    places = np.arange(length)
    segment = np.searchsorted(ends, places, side="right").clip(max=segments - 1)
    starts = np.concatenate([[0], ends[:-1]])
    positions = (places - starts[segment]).astype(np.int32)
    names = {"decoder_segment_ids": (segment + 1).astype(np.int32), "decoder_positions": positions}
    return {name: np.tile(value, (rows, 1)) for name, value in names.items()}
