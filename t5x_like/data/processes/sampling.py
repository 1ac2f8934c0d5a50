# SPDX-License-Identifier: Apache-2.0
"""Drawing from random streams: exact integer arithmetic, so that a config names the same sequences on every machine.

Probabilities are multiples of 2^-32 and a draw is a 32-bit integer, so which symbol it picks is never a matter of
rounding. Every window of a stream owns its own range of the generator's counter, so it is the same whichever windows
are drawn with it.
"""

import numpy as np

from t5x_like.data.dataset import random_stream

BITS = 32


def uniform_integers(length: int, first: int, count: int, *names: str | int) -> np.ndarray:
    """Returns uniform integers below 2^32 for windows [first, first + count) of a stream, int64 [length, count]."""
    blocks = -(-length // 4)
    raw = random_stream(*names, block=first * blocks).random_raw(count * blocks * 4).reshape(count, blocks * 4)
    return (raw >> np.uint64(64 - BITS)).astype(np.int64).T[:length]


def gaussians(shape: tuple[int, ...], *names: str | int) -> np.ndarray:
    """Returns standard normal numbers, float64, by Box and Muller's formula."""
    raw = random_stream(*names).random_raw(2 * int(np.prod(shape)))
    radius, angle = ((raw >> np.uint64(11)).astype(np.float64) + 0.5).reshape(2, *shape) * 2.0**-53
    return np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)


def random_subsets(sets: int, population: int, size: int, *names: str | int) -> np.ndarray:
    """Returns `sets` uniformly random subsets of [0, population), each in random order, int64 [sets, size]."""
    keys = random_stream(*names).random_raw(sets * population).reshape(sets, population)
    return np.argsort(keys, axis=1, kind="stable")[:, :size]


def on_grid(rows: np.ndarray, support: np.ndarray | None = None) -> np.ndarray:
    """Rounds each row of probabilities, float64 [n, V], to multiples of 2^-32 that sum to 1 exactly.

    What can happen, `support` bool [n, V] (None: everything), gets a positive multiple, the rest none.
    """
    support = np.ones(rows.shape, bool) if support is None else support
    spare = 2**BITS - support.sum(axis=1, keepdims=True)
    counts = np.where(support, 1 + np.floor(rows * spare).astype(np.int64), 0)
    np.add.at(counts, (np.arange(len(rows)), rows.argmax(axis=1)), 2**BITS - counts.sum(axis=1))
    return counts * 2.0**-BITS


def sampling_table(rows: np.ndarray) -> np.ndarray:
    """Returns the cumulative distributions of `rows` [n, V] on the grid, end to end: int64 [n V], ascending.

    Row i spans [i 2^32, (i + 1) 2^32), so one sorted search for i 2^32 + u finds the symbol that the uniform integer u
    picks from row i.
    """
    cumulative = np.cumsum(np.rint(rows * 2.0**BITS).astype(np.int64), axis=1)
    return (cumulative + (np.arange(len(rows))[:, None] << BITS)).ravel()


def draw(table: np.ndarray, size: int, rows: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Returns the symbols that uniform integers below 2^32 pick from rows of a sampling table, all int64 [count]."""
    return np.searchsorted(table, (rows << BITS) + uniforms, side="right") - rows * size
