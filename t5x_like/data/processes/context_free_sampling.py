# SPDX-License-Identifier: Apache-2.0
"""Leftmost derivations of a context-free grammar, many windows at a time."""

from typing import Protocol

import numpy as np

from t5x_like.data.dataset import random_stream
from t5x_like.data.processes.sampling import BITS, draw, sampling_table, uniform_integers


class Rules(Protocol):
    """Of a grammar: probabilities of branching and of words, [N, R] and [N, V], and what branches into, [N, R, 2]."""

    @property
    def branch(self) -> np.ndarray: ...
    @property
    def emit(self) -> np.ndarray: ...
    @property
    def pairs(self) -> np.ndarray: ...


_BLOCKS_A_WINDOW = 2**64  # of the generator's 2^256: how many numbers a derivation takes has no bound


def derive(
    grammar: Rules, length: int, first: int, count: int, *names: str | int, one_string: bool = False
) -> np.ndarray:
    """Returns the first symbols of streams of strings, each string followed by the end symbol V.

    Args:
      grammar: whose strings.
      length: how many symbols.
      first: number of the first window of a stream of windows.
      count: how many windows; each has randomness of its own, as much as it takes.
      names: determine the stream.
      one_string: whether end symbols are all that follows the first string.

    Returns:
      int32 [count, length].
    """
    table = sampling_table(np.concatenate([grammar.branch, grammar.emit], axis=1))
    uniforms = uniform_integers(4 * length + 16, first, count, *names).T  # enough for nearly all
    done, symbols = _derivations(grammar, table, uniforms, length, one_string)
    (waiting,), more = np.nonzero(~done), 16 * length
    while waiting.size:
        rest = np.stack([_further(more, first + int(window), names) for window in waiting])
        rest = np.concatenate([uniforms[waiting], rest], axis=1)
        done, symbols[waiting] = _derivations(grammar, table, rest, length, one_string)
        waiting, more = waiting[~done], 4 * more
    return symbols


def _further(length: int, window: int, names: tuple[str | int, ...]) -> np.ndarray:
    raw = random_stream(*names, "further", block=window * _BLOCKS_A_WINDOW).random_raw(length)
    return (raw >> np.uint64(64 - BITS)).astype(np.int64)


def _derivations(
    grammar: Rules, table: np.ndarray, uniforms: np.ndarray, length: int, one_string: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Derives from `uniforms` [n, draws]; returns which windows they were enough for, and symbols [n, length]."""
    (count, draws), (num_rules, end) = uniforms.shape, (grammar.pairs.shape[1], grammar.emit.shape[1])
    symbols = np.full((count, length), end, np.int32)
    stack = np.zeros((count, draws + 2), np.int64)  # of nonterminals to come; the bottom one is S
    height, place = np.ones(count, np.int64), np.zeros(count, np.int64)
    active = np.arange(count)
    for step in range(draws):
        height[active] -= 1
        top = stack[active, height[active]]
        chosen = draw(table, num_rules + end, top, uniforms[active, step])
        branched = chosen < num_rules
        rows = active[branched]
        pairs = grammar.pairs[top[branched], chosen[branched]]
        stack[rows, height[rows]], stack[rows, height[rows] + 1] = pairs[:, 1], pairs[:, 0]
        height[rows] += 2
        rows = active[~branched]
        symbols[rows, place[rows]] = chosen[~branched] - num_rules
        place[rows] += 1
        rows = rows[height[rows] == 0]  # the string is complete: the end symbol, then another one
        place[rows] = length if one_string else place[rows] + 1
        stack[rows, 0], height[rows] = 0, 1
        active = active[place[active] < length]
        if not active.size:
            break
    return place >= length, symbols
