# SPDX-License-Identifier: Apache-2.0
"""A source whose entropy is known: strings of the random hierarchy model (Cagnetta et al. 2024).

A string is the leaves of a tree of depth L. Its root is one of v symbols; every symbol becomes one of m tuples of s
symbols of the level below, so a string has s^L symbols and (s^L - 1) / (s - 1) productions. All tuples of a level
differ, so a string has one tree, and its entropy is that of the choices: ln v for the root and H(q) for every
production, with q the probabilities of a symbol's productions, 1/m each unless `rule_exponent` says otherwise.

Differs from the paper: there the root is a class to be predicted and productions are equally likely; the power law of
`rule_exponent` is the one of Cagnetta, Kang and Wyart 2025, at every level. Probabilities are multiples of 2^-32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t5x_like.config import HierarchyConfig
from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.processes.chains import entropies, normalised, sum_by_label
from t5x_like.data.processes.process import ProcessDataset
from t5x_like.data.processes.sampling import draw, on_grid, random_subsets, sampling_table, uniform_integers


@dataclass(frozen=True)
class HierarchyGrammar:
    """The rules."""

    rules: Sequence[np.ndarray]  # for every level from the root down, the productions of its symbols, int [v, m, s]
    root: np.ndarray  # probabilities of the root's symbol, float64 [v]
    choices: np.ndarray  # q, probabilities of a symbol's productions, float64 [m]

    @property
    def depth(self) -> int:
        return len(self.rules)

    @property
    def branching(self) -> int:
        return self.rules[0].shape[2]

    @property
    def string_length(self) -> int:
        return self.branching**self.depth

    @property
    def productions(self) -> int:
        return sum(self.branching**level for level in range(self.depth))

    @property
    def string_entropy(self) -> float:
        """Nats per string."""
        return float(entropies(self.root) + self.productions * entropies(self.choices))

    def conditionals(self, strings: np.ndarray) -> np.ndarray:
        """Returns the distribution of every symbol given those before it in its string, float64 [n, s^L, v].

        The inside algorithm on the fixed tree. Upwards, every node learns how probable the leaves below it are for each
        symbol that it could be. Downwards, every node learns the distribution of its symbol given all leaves to its
        left: from its parent's, by way of the siblings to its left.

        Args:
          strings: symbols, int [n, s^L]; those that no tree has get zeros from where they go wrong.
        """
        inside = [np.eye(len(self.root))[strings]]  # from the leaves up to the root's children
        for rules in self.rules[:0:-1]:
            below = self._by_child(inside[-1], rules)
            inside.append(normalised((np.prod(below, axis=2) * self.choices).sum(axis=-1)))
        outside = np.broadcast_to(self.root, (len(strings), 1, len(self.root)))
        for rules, below in zip(self.rules, reversed(inside), strict=True):
            outside = self._downwards(outside, rules, below)
        return outside

    def _by_child(self, below: np.ndarray, rules: np.ndarray) -> np.ndarray:
        """Returns [n, nodes, s, v, m], what each child says of each production, from the children [n, nodes s, v]."""
        size, branching = rules.shape[0], self.branching
        below = below.reshape(len(below), -1, branching, size)
        return np.stack([np.take(below[:, :, c], rules[:, :, c], axis=-1) for c in range(branching)], axis=2)

    def _downwards(self, outside: np.ndarray, rules: np.ndarray, below: np.ndarray) -> np.ndarray:
        """Returns the children's distributions [n, nodes s, v] from the parents' [n, nodes, v]."""
        size, num_rules, branching = rules.shape
        below = self._by_child(below, rules).reshape(*outside.shape[:2], branching, size * num_rules)
        joint = (outside[..., None] * self.choices).reshape(*outside.shape[:2], size * num_rules)
        children = []
        for child in range(branching):
            symbols = sum_by_label(joint, rules[:, :, child].ravel(), size)
            children.append(normalised(symbols))
            joint = joint * below[:, :, child]
        return np.stack(children, axis=2).reshape(len(outside), -1, size)


def hierarchy_grammar(config: HierarchyConfig) -> HierarchyGrammar:
    """Draws the rules that the config describes: of every level v m of the v^s tuples, without replacement."""
    size, count, branching = config.num_symbols, config.num_rules, config.branching
    rules = []
    for level in range(config.depth):
        names = ("hierarchy", config.process_seed, level)
        tuples = random_subsets(1, size**branching, size * count, *names)[0]
        digits = [tuples // size**child % size for child in range(branching)]
        rules.append(np.stack(digits, axis=-1).reshape(size, count, branching))
    weights = np.arange(1, count + 1) ** -float(config.rule_exponent)
    return HierarchyGrammar(rules, *(on_grid((w / w.sum())[None])[0] for w in (np.ones(size), weights)))


class HierarchyDataset(ProcessDataset):
    """Windows of T / s^L whole strings.

    Every string is a segment of its own that begins with the start symbol, token v. So with s^L = 4 and the strings
    (7 8 9 5) and (4 5 6 3) a window is

        decoder_input_tokens      v 7 8 9 v 4 5 6
        decoder_target_tokens     7 8 9 5 4 5 6 3
        decoder_segment_ids       1 1 1 1 2 2 2 2
        decoder_positions         0 1 2 3 0 1 2 3
    """

    def __init__(self, config: HierarchyConfig, seed: int, cache_dir: Path | None = None):
        super().__init__(config, seed, cache_dir)
        self.grammar = hierarchy_grammar(config)
        entropy = self.grammar.string_entropy / self.grammar.string_length
        self._know_entropy(entropy, rate=entropy)
        self._roots, self._choices = (sampling_table(row[None]) for row in (self.grammar.root, self.grammar.choices))

    def _windows(self, first: int, count: int, *names: str | int) -> Batch:
        strings, length = self.sequence_length // self.grammar.string_length, self.grammar.string_length
        symbols = self._strings(first * strings, count * strings, *names)
        symbols = symbols.astype(np.int32).reshape(count, strings, length)
        starts = np.full((count, strings, 1), self.vocab_size - 1, np.int32)
        shape = (count, self.sequence_length)
        inputs = np.concatenate([starts, symbols[:, :, :-1]], axis=2).reshape(shape)
        segments = np.tile(np.repeat(np.arange(1, strings + 1, dtype=np.int32), length), (count, 1))
        positions = np.tile(np.arange(length, dtype=np.int32), (count, strings))
        return decoder_batch(inputs, symbols.reshape(shape), segments, positions)

    def _strings(self, first: int, count: int, *names: str | int) -> np.ndarray:
        """Returns strings [first, first + count) of a stream, int64 [count, s^L]."""
        grammar, size = self.grammar, len(self.grammar.root)
        uniforms = uniform_integers(1 + grammar.productions, first, count, *names).T
        zeros = np.zeros(count, np.int64)
        symbols, used = draw(self._roots, size, zeros, uniforms[:, 0])[:, None], 1
        for rules in grammar.rules:
            some = uniforms[:, used : used + symbols.shape[1]]
            chosen = draw(self._choices, len(grammar.choices), np.zeros_like(some), some)
            used += symbols.shape[1]
            symbols = rules[symbols, chosen].reshape(count, symbols.shape[1] * grammar.branching)
        return symbols

    def target_distribution(self, inputs: np.ndarray) -> np.ndarray:
        length, size = self.grammar.string_length, len(self.grammar.root)
        prefixes = inputs.reshape(-1, length)
        strings = np.zeros_like(prefixes)  # a string's last symbol is nobody's input, and does not matter here
        strings[:, :-1] = prefixes[:, 1:]
        strings = np.minimum(strings, size - 1)  # the start symbol is inside a string in nothing but garbage
        truth = np.zeros((*inputs.shape, self.vocab_size))
        truth[..., :size] = self.grammar.conditionals(strings).reshape(*inputs.shape, size)
        return truth


build = HierarchyDataset
