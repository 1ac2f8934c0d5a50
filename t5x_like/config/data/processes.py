# SPDX-License-Identifier: Apache-2.0
"""Processes whose entropy is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from t5x_like.config.checks import Count, Positive, at_least, between
from t5x_like.config.data.base import DataConfig


@dataclass(frozen=True)
class ProcessConfig(DataConfig):
    """Windows of symbols that a random process makes."""

    sequence_length: Count = 16
    num_symbols: Annotated[int, between(2, 2048, " (all pairs are stored)")] = 128
    process_seed: int = 0  # which process; apart from the run's seed, which picks the windows

    @property
    def vocab_size(self) -> int:
        return self.num_symbols


@dataclass(frozen=True)
class MarkovConfig(ProcessConfig):
    """A Markov chain whose entropy is known: transition logits of spectrum k^-spectrum_exponent for every lag."""

    kind: Literal["markov"] = "markov"
    spectrum_exponent: float = 0.75
    logit_scale: Positive = 1.515  # standard deviation of the transition logits; with the others: 3.887 nats per token
    order: Count = 1  # how many symbols back the next one depends on

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_symbols ** min(self.order + 1, 64) > 2**22:
            many = f"{self.num_symbols}^{self.order + 1} transition probabilities, above the {2**22} that are stored"
            self.refuse("order", f"with num_symbols={self.num_symbols} has {many}")


@dataclass(frozen=True)
class GraphWalkConfig(ProcessConfig):
    """A random walk on a connected undirected random graph: from a node along an edge, in proportion to its weight.

    An edge's weight is the product of both nodes' popularity and a log-normal number; the node of rank k in random
    order has popularity k^-popularity_exponent.
    """

    kind: Literal["graph_walk"] = "graph_walk"
    mean_degree: float = 16.0  # edges at a node, on average
    popularity_exponent: Annotated[float, between(0, 2)] = 0.5
    weight_scale: Annotated[float, between(0, 4)] = 1.0  # standard deviation of the logarithm of the rest of a weight

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_symbols < 3:
            self.refuse("num_symbols", "is below 3: a graph needs a cycle")
        between(2, self.num_symbols - 1)("mean_degree", self.mean_degree)


@dataclass(frozen=True)
class HiddenMarkovConfig(ProcessConfig):
    """A Markov chain of order 1 that is seen only through symbols that its states emit, at random."""

    kind: Literal["hidden_markov"] = "hidden_markov"
    sequence_length: int = 32
    num_symbols: int = 64
    num_states: Annotated[int, at_least(2)] = 16
    spectrum_exponent: float = 0.75  # of the logits of both tables
    transition_scale: Positive = 3.0  # standard deviation of the logits of the next state
    emission_scale: Positive = 3.0  # and of those of the symbol

    def __post_init__(self) -> None:
        super().__post_init__()
        products = self.num_states * (self.num_states + self.num_symbols)
        if products > 2**15:
            many = f"{products} products a symbol in the filter, above {2**15}"
            self.refuse("num_states", f"with num_symbols={self.num_symbols} costs {many}")


@dataclass(frozen=True)
class HierarchyConfig(ProcessConfig):
    """The random hierarchy model (Cagnetta et al. 2024): strings of branching^depth symbols with a tree above them."""

    kind: Literal["hierarchy"] = "hierarchy"
    num_symbols: int = 16  # of every level
    num_rules: Count = 4  # productions of every symbol, none of which shares its right-hand side with another symbol
    branching: Annotated[int, between(2, 16)] = 2
    depth: Count = 4
    rule_exponent: Annotated[float, between(0, 8)] = 0.0  # the k-th production goes by k^-rule_exponent; 0: as printed

    def __post_init__(self) -> None:
        super().__post_init__()
        tuples = self.num_symbols**self.branching
        if tuples > 2**22:
            many = f"{tuples} right-hand sides to choose from, above {2**22}"
            self.refuse("branching", f"with num_symbols={self.num_symbols} has {many}")
        if self.num_rules * self.num_symbols > tuples:
            most = tuples // self.num_symbols
            self.refuse("num_rules", f"is above num_symbols^(branching - 1)={most}: rules would be ambiguous")
        if self.sequence_length % self.string_length:
            fault = f"is no multiple of branching^depth={self.string_length}: a window holds whole strings"
            self.refuse("sequence_length", fault)

    @property
    def string_length(self) -> int:
        return int(self.branching ** min(self.depth, 64))

    @property
    def vocab_size(self) -> int:
        return self.num_symbols + 1  # the last one starts a string


@dataclass(frozen=True)
class ContextFreeConfig(ProcessConfig):
    """A random probabilistic context-free grammar in Chomsky normal form, with an end symbol between its strings.

    Every nonterminal has `num_rules` productions to pairs of nonterminals and `num_words` to terminals. All branch with
    the same probability, so a string has `mean_length` symbols on average and the grammar is consistent.
    """

    kind: Literal["context_free"] = "context_free"
    sequence_length: Annotated[int, between(1, 128)] = 32
    num_symbols: Annotated[int, between(2, 1024)] = 32  # terminals
    num_nonterminals: Annotated[int, between(1, 64)] = 8  # the first one is the start symbol
    num_rules: int = 4
    num_words: int = 8
    mean_length: Annotated[float, between(1.01, 64)] = 6.0
    rule_exponent: Annotated[float, between(0, 4)] = 1.0  # the k-th production's probability goes by k^-rule_exponent

    def __post_init__(self) -> None:
        super().__post_init__()
        between(1, self.num_nonterminals**2)("num_rules", self.num_rules)
        between(1, self.num_symbols)("num_words", self.num_words)

    @property
    def vocab_size(self) -> int:
        return self.num_symbols + 1  # the last one ends a string


@dataclass(frozen=True)
class RecallConfig(ProcessConfig):
    """What was read long ago, asked for at the end of a row: nothing else is a target, and the answer is certain.

    recall   k1 v1 k2 v2 ... noise ... ? k2        -> v2
    copy     s1 s2 s3 ... noise ... ? s1 s2        -> s1 s2 s3

    Noise fills the row, so its length is the distance. Symbols are of three alphabets: keys, values and noise. Without
    what was read, values are as likely as one another: the loss is then ln `num_symbols`, and 0 with it.
    """

    kind: Literal["recall"] = "recall"
    task: Literal["recall", "copy"] = "recall"
    sequence_length: int = 64
    num_symbols: int = 16  # of each alphabet
    items: int = 4  # pairs to recall from, all of different keys, or symbols to copy
    masked: bool = False  # for an encoder: each answer has its place behind what is asked, a mask

    def __post_init__(self) -> None:
        super().__post_init__()
        between(1, self.num_symbols)("items", self.items)
        if self.sequence_length < self.first + self.asked:
            self.refuse("sequence_length", f"has no room; accepted: {self.first + self.asked} or more")

    @property
    def answers(self) -> int:
        """Targets of a row."""
        return 1 if self.task == "recall" else self.items

    @property
    def first(self) -> int:
        """Tokens before the noise."""
        return 2 * self.items if self.task == "recall" else self.items

    @property
    def asked(self) -> int:
        """Tokens behind it, from the question mark on."""
        return (2 if self.task == "recall" else self.items) + self.masked

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder" if self.masked else "decoder": self.sequence_length}

    @property
    def mean_lengths(self) -> Mapping[str, float]:
        return {**self.lengths, "targets": self.answers}

    @property
    def vocab_size(self) -> int:
        return 3 * self.num_symbols + 2
