# SPDX-License-Identifier: Apache-2.0
"""A source whose entropy is known: a stationary Markov chain of order m.

The transition logits are a sum over lags: the symbol j places back adds its row of a random V x V matrix
U_j diag(k^-a) W_j^T, k = 1..V, U_j and W_j uniformly random orthogonal; the sum is scaled to a given standard
deviation. Like the bigram table of a language, each has a few strong directions and a long tail, so larger models find
ever more to learn. Lags are equally strong and, but for the softmax, do not interact.

Nothing but the last m symbols helps to predict the next, so the entropy rate is
H = - sum_c pi_c sum_y P_cy ln P_cy over the contexts c of m symbols, which is computed, not estimated. In a window that
starts anywhere in the chain, the first targets have seen fewer symbols than that: the best prediction for the target
after k < m symbols is the stationary chain's P(y | the k symbols), whose entropy H_k is above H. So what the best
possible model reaches on windows of T targets is the mean of H_1, ..., H_(m-1) and T - m + 1 times H, the
`exact_entropy`; for m = 1 it is the entropy rate.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.config import MarkovConfig, ProcessConfig
from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.processes.chains import softmax, spectral_matrix, stationary_distribution
from t5x_like.data.processes.process import ProcessDataset
from t5x_like.data.processes.sampling import draw, on_grid, sampling_table, uniform_integers
from t5x_like.errors import UserError

_MOST_ITERATIONS = 100_000


@dataclasses.dataclass(frozen=True)
class MarkovProcess:
    """The chain itself. A context of symbols x_1 ... x_k, oldest first, has the number sum_i x_i V^(k-i)."""

    conditionals: Sequence[np.ndarray]  # of the next symbol after k = 0, ..., m stationary ones, float64 [V^k, V] each
    stationary: np.ndarray  # pi, of contexts of m symbols, float64 [V^m]

    @property
    def order(self) -> int:
        return len(self.conditionals) - 1

    @property
    def transitions(self) -> np.ndarray:
        """P[c, y], the probability of y after the context c, float64 [V^m, V]."""
        return self.conditionals[-1]

    @property
    def entropy_rate(self) -> float:
        """H in nats per symbol."""
        return self.conditional_entropy(self.order)

    def conditional_entropy(self, known: int) -> float:
        """The entropy of a symbol given as many before it, at most m, in nats."""
        contexts = self.stationary.reshape(len(self.conditionals[known]), -1).sum(axis=1)
        table = self.conditionals[known]
        return float(-(contexts[:, None] * table * np.log(np.where(table > 0, table, 1.0))).sum())

    def window_entropy(self, length: int) -> float:
        """The mean entropy of symbols 1 to `length` of a window, each given those before it from symbol 0 on."""
        rate = self.entropy_rate
        excess = sum(self.conditional_entropy(known) - rate for known in range(1, min(self.order, length + 1)))
        return rate + excess / length


def markov_process(config: MarkovConfig) -> MarkovProcess:
    """Builds the chain that the config describes; `process_seed` picks the U_j and W_j. Raises UserError: the chain of
    an order above 1 mixes so slowly that its stationary distribution is not found."""
    size, order = config.num_symbols, config.order
    contexts = np.arange(size**order)
    logits = np.zeros((len(contexts), size))
    for lag in range(1, order + 1):
        names = ("markov", config.process_seed)
        tail = () if lag == 1 else (lag,)  # so that adding lags leaves the first one's matrix
        matrix = spectral_matrix(
            size, size, config.spectrum_exponent, (*names, "left", *tail), (*names, "right", *tail)
        )
        logits += matrix[contexts // size ** (lag - 1) % size]
    transitions = on_grid(softmax(logits * (config.logit_scale / logits.std())))
    stationary = stationary_distribution(transitions) if order == 1 else _stationary_contexts(transitions)
    return MarkovProcess((*_shorter(stationary, size, order), transitions), stationary)


class MarkovDataset(ProcessDataset):
    """Windows of the stationary chain.

    A window is T + 1 symbols, the first m drawn from the stationary distribution: what one finds on looking into an
    endless chain somewhere. So there is no start token and no packing, and every window is one segment.
    """

    process_of: Callable[[Any], MarkovProcess] = staticmethod(markov_process)

    def __init__(self, config: ProcessConfig, seed: int, cache_dir: Path | None = None):
        super().__init__(config, seed, cache_dir, leave_out=("order",) if getattr(config, "order", None) == 1 else ())
        self.process = self.process_of(config)
        self._know_entropy(self.process.window_entropy(config.sequence_length), rate=self.process.entropy_rate)
        # Full contexts first, then ever shorter ones: the last row is the distribution of a window's first symbol.
        self._rows = np.concatenate(self.process.conditionals[::-1])
        sizes = [len(table) for table in self.process.conditionals]
        self._offsets = [sum(sizes[known + 1 :]) for known in range(len(sizes))]
        self._table = sampling_table(self._rows)

    def _windows(self, first: int, count: int, *names: str | int) -> Batch:
        length = self.sequence_length + 1
        uniforms = uniform_integers(length, first, count, *names)
        symbols = np.empty((length, count), np.int32)
        context = np.zeros(count, np.int64)
        for step in range(length):
            rows = self._offset(step) + context
            symbols[step] = draw(self._table, self.vocab_size, rows, uniforms[step])
            context = self._longer(context, symbols[step])
        return decoder_batch(symbols.T[:, :-1], symbols.T[:, 1:])

    def target_distribution(self, inputs: np.ndarray) -> np.ndarray:
        rows = np.empty(inputs.shape, np.int64)
        context = np.zeros(len(inputs), np.int64)
        for step in range(inputs.shape[1]):
            context = self._longer(context, inputs[:, step])
            rows[:, step] = self._offset(step + 1) + context
        return self._rows[rows]

    def _offset(self, known: int) -> int:
        return self._offsets[min(known, self.process.order)]

    def _longer(self, context: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        return (context * self.vocab_size + symbols) % len(self.process.stationary)


def _shorter(stationary: np.ndarray, size: int, order: int) -> list[np.ndarray]:
    """Returns the distributions of the next symbol after fewer than `order` symbols, on the grid."""
    tables = []
    for known in range(order):
        joint = stationary.reshape(size**known, size, -1).sum(axis=-1)
        tables.append(on_grid(joint if known == 0 else joint / joint.sum(axis=1, keepdims=True)))
    return tables


def _stationary_contexts(transitions: np.ndarray) -> np.ndarray:
    """Returns the stationary distribution of contexts, by iterating; one step costs as much as reading the table.

    Elimination as for order 1 would fill a matrix of V^m x V^m.
    """
    contexts, size = transitions.shape
    stationary = np.full(contexts, 1.0 / contexts)
    for _ in range(_MOST_ITERATIONS):
        after = (stationary[:, None] * transitions).reshape(size, contexts).sum(axis=0)
        after /= after.sum()
        change = np.abs(after / stationary - 1).max()
        stationary = after
        if change < 1e-13:
            return stationary
    raise UserError("data.logit_scale: the chain mixes too slowly to find its stationary distribution; lower it")


build = MarkovDataset
