# SPDX-License-Identifier: Apache-2.0
"""A source whose distributions are known: strings of a probabilistic context-free grammar in Chomsky normal form.

A nonterminal A becomes two, B C, or one terminal. All branch with one probability q < 1/2, q = (l - 1) / (2 l - 1) for
strings of l symbols on average, so recursion is subcritical: every derivation ends (Booth and Thompson 1973). Which
pairs and terminals A has is random, in proportion to powers of their rank.

The distribution of the next symbol is a quotient of prefix probabilities (Jelinek and Lafferty 1991), and there is an
end symbol: the string ends with the probability that the prefix is a string, over that of the prefix. Left recursion,
which has no bound, is summed in closed form by the inverse of I - P_L, P_L[A, B] = sum_C P(A -> B C). With it,

    forward(0, S) = 1
    forward(j, C) = sum over i < j and A -> B C of left(i, A) P(A -> B C) inside(B, i, j),  left = forward (I - P_L)^-1

is the expected number of times that C comes next in a leftmost derivation once the first j symbols have been derived
(Stolcke 1995 calls its left part the forward probability), so P(x_1 ... x_j x ...) = sum_A left(j, A) P(A -> x).

A window is cut from a stream of strings, and its last string where the window ends. That costs no exactness: a
distribution given a prefix needs no rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t5x_like.config import ContextFreeConfig
from t5x_like.data.dataset import random_stream
from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.processes.chains import entropies, normalised, product, sum_by_label
from t5x_like.data.processes.entropy import TOLERANCE, estimate, longest_enumerable, prefix_entropies
from t5x_like.data.processes.process import ProcessDataset
from t5x_like.data.processes.sampling import BITS, draw, on_grid, random_subsets, sampling_table, uniform_integers

_CHART_NUMBERS = 2**21  # in a chart of several strings at once
_BLOCKS_A_WINDOW = 2**64  # of the generator's 2^256: how many numbers a derivation takes has no bound


@dataclass(frozen=True)
class Grammar:
    """Productions; S is nonterminal 0, and a probability may be 0."""

    pairs: np.ndarray  # what nonterminals branch to, int [N, R, 2]
    branch: np.ndarray  # the probabilities of that, float64 [N, R]
    emit: np.ndarray  # the probabilities of terminals, float64 [N, V]

    @property
    def left_closure(self) -> np.ndarray:
        """(I - P_L)^-1: how often B is at the left edge of what A becomes, float64 [N, N]."""
        size = len(self.emit)
        left = np.stack([np.bincount(self.pairs[a, :, 0], self.branch[a], size) for a in range(size)])
        return _geometric_series(left)

    @property
    def derivation_entropy(self) -> float:
        """The entropy of a derivation from S in nats (Grenander 1976): expected productions times their entropies.

        Above the entropy of strings by that of a string's tree, so equal to it where no string has two trees.
        """
        size = len(self.emit)
        below = [np.bincount(self.pairs[a].ravel(), np.repeat(self.branch[a], 2), size) for a in range(size)]
        expected = _geometric_series(np.stack(below))[0]
        return float((expected * (entropies(self.branch) + entropies(self.emit))).sum())

    def chart(self, emitted: np.ndarray) -> list[np.ndarray]:
        """The inside algorithm: for l = 1, ..., L the probabilities [n, L - l + 1, N] that nonterminals become what is
        at the places [i, i + l), from those of l = 1, `emitted` [n, L, N].
        """
        length = emitted.shape[1]
        first, second = self.pairs[:, :, 0].ravel(), self.pairs[:, :, 1].ravel()
        spans = [emitted]
        lefts, rights = [emitted[..., first] * self.branch.ravel()], [emitted[..., second]]
        for size in range(2, length + 1):
            starts = length - size + 1
            splits = (lefts[k - 1][:, :starts] * rights[size - k - 1][:, k : k + starts] for k in range(1, size))
            total = next(splits)
            for split in splits:
                total += split
            spans.append(total.reshape(len(total), starts, *self.branch.shape).sum(axis=-1))
            lefts.append(spans[-1][..., first] * self.branch.ravel())
            rights.append(spans[-1][..., second])
        return spans

    def predict(self, emitted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the probabilities of each terminal after 0, ..., L places, [n, L + 1, V], and of the end, [n, L + 1].

        They are joint with what is `emitted` [n, L, N] up to there, so not normalised.
        """
        count, length, size = emitted.shape
        spans, closure = self.chart(emitted) if length else [], self.left_closure
        first, second = self.pairs[:, :, 0].ravel(), self.pairs[:, :, 1].ravel()
        parents = np.repeat(np.arange(size), self.pairs.shape[1])
        left = np.zeros((count, length + 1, size))
        left[:, 0] = closure[0]
        for end in range(1, length + 1):
            rules = np.zeros((count, len(first)))
            for begin in range(end):
                rules += left[:, begin, parents] * spans[end - begin - 1][:, begin, first]
            left[:, end] = product(sum_by_label(rules * self.branch.ravel(), second, size), closure)
        ends = [np.zeros(count), *(span[:, 0, 0] for span in spans)]
        return product(left, self.emit), np.stack(ends, axis=1)

    def conditionals(self, words: np.ndarray) -> np.ndarray:
        """Returns the distribution of what follows 0, 1, ..., k symbols of strings that begin with `words`, int [n, k].

        It is float64 [n, k + 1, V + 1], the end last; zeros after what begins no string.
        """
        count, length = words.shape
        result = np.empty((count, length + 1, self.emit.shape[1] + 1))
        numbers = 2 * self.branch.size * (length + 1) ** 2
        step = max(1, _CHART_NUMBERS // numbers)
        for begin in range(0, count, step):
            following, end = self.predict(self.emit.T[words[begin : begin + step]])
            joint = np.concatenate([following, end[..., None]], axis=-1)
            result[begin : begin + step] = normalised(joint)
        return result


def _geometric_series(matrix: np.ndarray) -> np.ndarray:
    """Returns I + M + M^2 + ... of a nonnegative matrix whose powers vanish, by squaring: nothing is subtracted."""
    total, power = np.eye(len(matrix)) + matrix, matrix
    while power.max() > 1e-18:
        power = product(power, power)
        total = total + product(total, power)
    return total


def random_grammar(config: ContextFreeConfig) -> Grammar:
    """Draws the productions that the config describes."""
    size, names = config.num_nonterminals, ("context free", config.process_seed)
    numbers = random_subsets(size, size * size, config.num_rules, *names, "pairs")
    words = random_subsets(size, config.num_symbols, config.num_words, *names, "words")
    branching = (config.mean_length - 1) / (2 * config.mean_length - 1)

    def weights(count: int) -> np.ndarray:
        weights = np.arange(1, count + 1) ** -float(config.rule_exponent)
        return weights / weights.sum()

    rows = np.zeros((size, config.num_rules + config.num_symbols))
    rows[:, : config.num_rules] = branching * weights(config.num_rules)
    np.put_along_axis(rows, config.num_rules + words, (1 - branching) * weights(config.num_words)[None], axis=1)
    rows = on_grid(rows, rows > 0)
    pairs = np.stack([numbers // size, numbers % size], axis=-1)
    return Grammar(pairs, rows[:, : config.num_rules], rows[:, config.num_rules :])


def derive(
    grammar: Grammar, length: int, first: int, count: int, *names: str | int, one_string: bool = False
) -> np.ndarray:
    """Returns the first symbols of streams of strings, each followed by the end symbol V: int32 [count, length].

    They are windows [first, first + count) of the stream that `names` determine; each has randomness of its own, as
    much as it takes. With `one_string` end symbols are all that follows the first string.
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
    grammar: Grammar, table: np.ndarray, uniforms: np.ndarray, length: int, one_string: bool
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


def length_moments(grammar: Grammar, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities that a string has j symbols, j = 0, ..., `length`, [length + 1]; and that it has more
    than j and x is the one after the first j, [length + 1, V]: exactly.
    """
    anything = np.broadcast_to(grammar.emit.sum(axis=1), (1, length, len(grammar.emit)))
    following, end = grammar.predict(anything)
    return end[0], following[0]


def window_entropy(grammar: Grammar, length: int, *names: str | int) -> tuple[float, float]:
    """Returns the mean entropy of a window's targets, and its standard error, 0 where all strings were tried.

    A window begins with a string, so the target after j symbols of a string comes up
    w_j = sum over u < T - j of P(a string begins at target u) times as often as strings have j symbols, and the mean is
    sum_j w_j E[entropy after j symbols; there are as many] / T. Prefixes of few symbols are tried exhaustively; for
    longer ones strings are sampled, with the symbols at every place as control variates. Nats per symbol; `names`
    determine the samples.
    """
    size = grammar.emit.shape[1]
    lengths, places = length_moments(grammar, length)
    begins = np.zeros(length)
    for target in range(length):
        begins[target] = (target == 0) + sum(begins[u] * lengths[target - u - 1] for u in range(target))
    visits = np.cumsum(begins)[::-1]
    known = longest_enumerable(size, length - 1) if length > 1 else 0
    tables = prefix_entropies(grammar.conditionals, size, known)
    exact = sum(float((p * h).sum()) * w for (p, h), w in zip(tables, visits, strict=False)) / length
    if known == length - 1:
        return exact, 0.0
    later = visits[known + 1 :]

    def sample(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        strings = derive(grammar, length - 1, first, count, *names, one_string=True)
        values = np.zeros(count)
        controls = np.zeros((count, len(later) + size))
        for chosen, words in by_length(strings, size, known + 1):
            entropy = entropies(grammar.conditionals(words)[:, known + 1 :])
            values[chosen] = (entropy * later[: entropy.shape[1]]).sum(axis=1)
            controls[chosen, : entropy.shape[1]] = 1.0
            last = words[:, known:]
            for column, weight in enumerate(later[: last.shape[1]]):
                controls[chosen, len(later) + last[:, column]] += weight
        return values / length, controls

    reached = places.sum(axis=1)[known:-2]  # at least known + 1, ..., length - 1 symbols
    means = np.concatenate([reached, (places[known:-2] * later[:, None]).sum(axis=0)])
    mean, stderr = estimate(sample, means, TOLERANCE)
    return exact + mean, stderr


def by_length(strings: np.ndarray, end: int, least: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (which, [n, k] symbols) of the strings [count, L] that have k symbols before the first `end`, for each k
    from `least` on; k = L without one."""
    ended = strings == end
    lengths = np.where(ended.any(axis=1), ended.argmax(axis=1), strings.shape[1])
    for length in np.unique(lengths[lengths >= least]):
        (chosen,) = np.nonzero(lengths == length)
        yield chosen, strings[chosen, :length]


class ContextFreeDataset(ProcessDataset):
    """Windows of a stream of strings, each behind an end symbol, token V, as documents in `packing.py`.

    A window begins with a string; its last one is cut where the window ends. Every string is a segment. With the
    strings (7 8) and (4 5 6 ...), a window of 6 is

        decoder_input_tokens      V 7 8 V 4 5
        decoder_target_tokens     7 8 V 4 5 6
        decoder_segment_ids       1 1 1 2 2 2
        decoder_positions         0 1 2 0 1 2
    """

    def __init__(self, config: ContextFreeConfig, seed: int, cache_dir: Path | None = None):
        super().__init__(config, seed, cache_dir)
        self.grammar = random_grammar(config)
        self._sample_entropy(lambda *names: window_entropy(self.grammar, config.sequence_length, *names))

    def _windows(self, first: int, count: int, *names: str | int) -> Batch:
        targets = derive(self.grammar, self.sequence_length, first, count, *names)
        inputs = np.concatenate([np.full((count, 1), self.vocab_size - 1, np.int32), targets[:, :-1]], axis=1)
        begins, places = inputs == self.vocab_size - 1, np.arange(self.sequence_length)
        starts = np.maximum.accumulate(np.where(begins, places, 0), axis=1)  # of each place's string
        segments = np.cumsum(begins, axis=1, dtype=np.int32)
        return decoder_batch(inputs, targets, segments, (places - starts).astype(np.int32))

    def target_distribution(self, inputs: np.ndarray) -> np.ndarray:
        end = self.vocab_size - 1
        truth = np.zeros((*inputs.shape, self.vocab_size))
        rows, columns = np.nonzero(inputs == end)
        behind = np.concatenate([inputs[:, 1:], np.full_like(inputs, end)], axis=1)
        strings = behind[rows[:, None], columns[:, None] + np.arange(inputs.shape[1])]
        for chosen, words in by_length(strings, end):
            places = columns[chosen, None] + np.arange(words.shape[1] + 1)
            truth[rows[chosen, None], places] = self.grammar.conditionals(words)
        return truth


build = ContextFreeDataset
