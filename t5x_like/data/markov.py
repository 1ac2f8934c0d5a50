# SPDX-License-Identifier: Apache-2.0
"""A source whose entropy is known: a stationary Markov chain of order 1.

The transition logits are a random V x V matrix U diag(k^-a) W^T, k = 1..V, U and W uniformly random orthogonal, scaled
to a given standard deviation: like the bigram table of a language, it has a few strong directions and a long tail, so
larger models find ever more to learn. Nothing in a sequence but the symbol before helps to predict the next, so the
best loss any model can reach is the entropy rate H = - sum_i pi_i sum_j P_ij ln P_ij, which is computed, not estimated.
"""

import dataclasses
import hashlib
import json

import numpy as np

from t5x_like.config import MarkovConfig
from t5x_like.data.dataset import Dataset, random_stream
from t5x_like.data.packing import Batch
from t5x_like.strict import to_dict

_FORMAT = 1  # raise it when the same config gives other sequences
_BITS = 32  # probabilities are multiples of 2^-32, so that drawing from them is exact integer arithmetic


@dataclasses.dataclass(frozen=True)
class MarkovProcess:
    """The chain itself.

    Attributes:
      transitions: P[i, j], the probability of j after i, float64 [V, V]; every one is positive.
      stationary: pi, float64 [V]: pi P = pi.
      exact_entropy: H in nats per symbol.
    """

    transitions: np.ndarray
    stationary: np.ndarray

    @property
    def exact_entropy(self) -> float:
        return float(-(self.stationary[:, None] * self.transitions * np.log(self.transitions)).sum())


def markov_process(config: MarkovConfig) -> MarkovProcess:
    """Builds the chain that the config describes; `process_seed` picks U and W."""
    size = config.num_symbols
    left, right = (_random_orthogonal(size, config.process_seed, side) for side in ("left", "right"))
    spectrum = np.arange(1, size + 1) ** -float(config.spectrum_exponent)
    logits = np.einsum("ik,jk->ij", left * spectrum, right)
    logits *= config.logit_scale / logits.std()
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    transitions = _on_grid(exponentials / exponentials.sum(axis=1, keepdims=True))
    return MarkovProcess(transitions, _stationary(transitions))


class MarkovDataset(Dataset):
    """Windows of the stationary chain.

    A window is T + 1 symbols, the first drawn from the stationary distribution: what one finds on looking into an
    endless chain somewhere. So there is no start token and no packing, every window is one segment, and every target's
    expected loss under the true model is H. Evaluation batches carry `decoder_target_distribution`, float32 [B, T, V]:
    the true probabilities of each next symbol. H plus the divergence from them is the exact cross-entropy without the
    sampling noise of the targets. Held-out windows come from another random stream than training windows.
    """

    def __init__(self, config: MarkovConfig, seed: int):
        process = markov_process(config)
        content = {"format": _FORMAT, **to_dict(config), "sequence_length": None}
        self.vocab_size = config.num_symbols
        self.sequence_length = config.sequence_length
        self.exact_entropy = process.exact_entropy
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        self.description = {
            "source": config.kind,
            "fingerprint": self.fingerprint,
            "num_symbols": config.num_symbols,
            "exact_entropy": self.exact_entropy,
        }
        self.process = process
        self._seed = seed
        self._table = _sampling_table(process)

    def _training_rows(self, first: int, count: int) -> Batch:
        return self._rows(first, count, "training symbols", self.fingerprint, self._seed)

    def _held_out_rows(self, first: int, count: int) -> Batch:
        return self._rows(first, count, "held-out symbols", self.fingerprint)

    def _score_features(self, batch: Batch) -> Batch:
        truth = self.process.transitions.astype(np.float32)
        return {"decoder_target_distribution": truth[batch["decoder_input_tokens"]]}

    def _rows(self, first: int, count: int, *names: str | int) -> Batch:
        symbols = _sample(self._table, self.vocab_size, self.sequence_length + 1, first, count, names)
        shape = (count, self.sequence_length)
        return {
            "decoder_input_tokens": symbols[:, :-1],
            "decoder_target_tokens": symbols[:, 1:],
            "decoder_segment_ids": np.ones(shape, np.int32),
            "decoder_positions": np.tile(np.arange(self.sequence_length, dtype=np.int32), (count, 1)),
            "decoder_loss_weights": np.ones(shape, np.float32),
        }


# The three linear-algebra steps use no BLAS, whose result depends on its build and on the number of threads, and whose
# threads take seconds instead of milliseconds on a machine that is busy with something else.


def _random_orthogonal(size: int, seed: int, side: str) -> np.ndarray:
    """Returns a uniformly random orthogonal matrix, float64 [size, size] (Stewart 1980).

    Of the trailing blocks, each in turn becomes a reflection that sends the first axis to a random direction, times
    the block before.
    """
    raw = random_stream("markov", seed, side).random_raw(2 * size * size)
    radius, angle = ((raw >> np.uint64(11)).astype(np.float64) + 0.5).reshape(2, size, size) * 2.0**-53
    gaussian = np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)
    matrix = np.eye(size)
    for corner in reversed(range(size)):
        normal = gaussian[corner, corner:] / np.sqrt((gaussian[corner, corner:] ** 2).sum())
        sign = 1.0 if normal[0] >= 0 else -1.0
        normal[0] += sign  # now the reflection's axis, of squared length 2 |normal[0]|
        block = matrix[corner:, corner:]
        block -= np.multiply.outer(normal, np.einsum("i,ij->j", normal, block)) / abs(normal[0])
        block *= -sign
    return matrix


def _stationary(transitions: np.ndarray) -> np.ndarray:
    """Solves pi P = pi, sum pi = 1, by eliminating state after state (Grassmann, Taksar and Heyman 1985).

    Nothing is subtracted, so every entry is accurate to rounding however rare the state.
    """
    rest = transitions.copy()
    for state in reversed(range(1, len(rest))):
        rest[:state, state] /= rest[state, :state].sum()
        rest[:state, :state] += np.multiply.outer(rest[:state, state], rest[state, :state])
    weights = np.ones(len(rest))
    for state in range(1, len(rest)):
        weights[state] = (weights[:state] * rest[:state, state]).sum()
    return weights / weights.sum()


def _on_grid(rows: np.ndarray) -> np.ndarray:
    """Rounds each row of probabilities to positive multiples of 2^-32 that sum to 1 exactly."""
    size = rows.shape[1]
    counts = 1 + np.floor(rows * (2**_BITS - size)).astype(np.int64)
    np.add.at(counts, (np.arange(len(rows)), rows.argmax(axis=1)), 2**_BITS - counts.sum(axis=1))
    return counts * 2.0**-_BITS


def _sampling_table(process: MarkovProcess) -> np.ndarray:
    """Returns the cumulative distributions of all states, end to end, as integers: int64 [(V + 1) V], ascending.

    Row i spans [i 2^32, (i + 1) 2^32), so one sorted search for i 2^32 + u finds the symbol after i that the uniform
    integer u picks. Row V is the stationary distribution: the state before the first symbol.
    """
    rows = np.concatenate([process.transitions, _on_grid(process.stationary[None])])
    cumulative = np.cumsum(np.rint(rows * 2.0**_BITS).astype(np.int64), axis=1)
    return (cumulative + (np.arange(len(rows))[:, None] << _BITS)).ravel()


def _sample(
    table: np.ndarray, size: int, length: int, first: int, count: int, names: tuple[str | int, ...]
) -> np.ndarray:
    """Returns windows [first, first + count) of a stream, int32 [count, length].

    Window w owns its own range of the generator's counter, so it is the same whichever windows are drawn with it.
    """
    blocks = -(-length // 4)
    raw = random_stream(*names, block=first * blocks).random_raw(count * blocks * 4).reshape(count, blocks * 4)
    uniforms = (raw >> np.uint64(64 - _BITS)).astype(np.int64).T
    symbols = np.empty((length, count), np.int32)
    state = np.full(count, size, np.int64)
    for step in range(length):
        state = symbols[step] = _next_symbols(table, size, state, uniforms[step])
    return np.ascontiguousarray(symbols.T)


def _next_symbols(table: np.ndarray, size: int, state: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Returns the symbols that uniform integers below 2^32 pick after each state, all int64 [count]."""
    return np.searchsorted(table, (state << _BITS) + uniforms, side="right") - state * size
