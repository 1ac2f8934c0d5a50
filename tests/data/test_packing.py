# SPDX-License-Identifier: Apache-2.0
"""Windows against a slow and obvious version."""

import numpy as np
import pytest

from t5x_like.data.packing import num_windows, pack, windows

DTYPES = {
    "decoder_input_tokens": np.int32,
    "decoder_target_tokens": np.int32,
    "decoder_segment_ids": np.int32,
    "decoder_positions": np.int32,
    "decoder_loss_weights": np.float32,
}


def _one_window(documents, separator, index, length):
    """Walks through the documents token by token."""
    stream, is_start = [], []
    for document in documents:
        stream += [separator, *document]
        is_start += [True] + [False] * len(document)
    rows = {name: [] for name in DTYPES}
    segment, position = 1, 0
    for place in range(index * length, (index + 1) * length):
        if place + 1 >= len(stream):
            values = [0, 0, 0, 0, 0]
        else:
            if place > index * length and is_start[place]:
                segment, position = segment + 1, 0
            values = [stream[place], stream[place + 1], segment, position, 1]
            position += 1
        for name, value in zip(DTYPES, values, strict=True):
            rows[name].append(value)
    return rows


def test_the_example_in_the_docstring():
    stream, starts = pack([np.array([7, 8, 9]), np.array([4, 5, 6, 4, 5])], 0)
    assert starts.tolist() == [0, 4]
    assert num_windows(len(stream), 6) == 2
    assert [num_windows(tokens, 6) for tokens in (1, 2, 7, 8, 13, 14)] == [0, 1, 1, 2, 2, 3]
    batch = windows(stream, starts, np.array([0, 1]), 6)
    assert batch["decoder_input_tokens"].tolist() == [[0, 7, 8, 9, 0, 4], [5, 6, 4, 0, 0, 0]]
    assert batch["decoder_target_tokens"].tolist() == [[7, 8, 9, 0, 4, 5], [6, 4, 5, 0, 0, 0]]
    assert batch["decoder_segment_ids"].tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 0, 0]]
    assert batch["decoder_positions"].tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]]
    assert batch["decoder_loss_weights"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(30))
def test_windows_against_brute_force(seed):
    generator = np.random.default_rng(seed)
    longest = [2, 8, 50][seed % 3]  # many documents in a window, a few, windows within one document
    documents = [generator.integers(1, 9, generator.integers(0, longest)) for _ in range(generator.integers(1, 25))]
    documents[0] = np.append(documents[0], 5)
    length = int(generator.integers(1, 20))
    stream, starts = pack(documents, 0)
    indices = generator.permutation(num_windows(len(stream), length) + 2)  # two beyond the end
    batch = windows(stream, starts, indices, length)
    assert {name: value.dtype for name, value in batch.items()} == DTYPES
    for row, index in enumerate(indices):
        for name, expected in _one_window(documents, 0, index, length).items():
            assert batch[name][row].tolist() == expected, (name, index)
    targets = batch["decoder_loss_weights"].sum()
    assert targets == len(stream) - 1  # every token but the first, once


def test_no_windows():
    stream, starts = pack([np.array([7, 8, 9])], 0)
    assert all(value.shape == (0, 5) for value in windows(stream, starts, np.array([], np.int64), 5).values())
