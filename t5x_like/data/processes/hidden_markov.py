# SPDX-License-Identifier: Apache-2.0
"""A source whose distributions are known: a hidden Markov model (Rabiner 1989).

A stationary chain of hidden states, each of which emits a symbol at random. Transition and emission logits are random
matrices of spectrum k^-a, as in `markov.py`. The distribution of the next symbol given all before it comes from the
forward filter. Its entropy depends on the whole past and has no finite formula: targets early in a window are tried
exhaustively, later ones sampled. Control variates are the entropies given only the last symbols, and the predicted
probabilities themselves: the means of both are known.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t5x_like.config import HiddenMarkovConfig
from t5x_like.data.packing import Batch, decoder_batch
from t5x_like.data.processes.chains import (
    entropies,
    normalised,
    product,
    softmax,
    spectral_matrix,
    stationary_distribution,
)
from t5x_like.data.processes.entropy import TOLERANCE, estimate, longest_enumerable, prefix_entropies
from t5x_like.data.processes.process import ProcessDataset
from t5x_like.data.processes.sampling import draw, on_grid, sampling_table, uniform_integers


@dataclass(frozen=True)
class HiddenMarkovProcess:
    """The tables, float64 on the grid of 2^-32."""

    transitions: np.ndarray  # [S, S]
    emissions: np.ndarray  # [S, V]
    stationary: np.ndarray  # of the hidden states, [S]

    def conditionals(self, words: np.ndarray) -> np.ndarray:
        """Returns the distribution of the next symbol after 0, 1, ..., k symbols of stationary windows, int [n, k]:
        float64 [n, k + 1, V]."""
        count, length = words.shape
        result = np.empty((count, length + 1, self.emissions.shape[1]))
        belief = np.broadcast_to(self.stationary, (count, len(self.stationary)))  # of the next state
        for known in range(length + 1):
            result[:, known] = product(belief, self.emissions)
            if known < length:
                posterior = normalised(belief * self.emissions.T[words[:, known]])
                belief = product(posterior, self.transitions)
        return result

    def sample(self, length: int, first: int, count: int, *names: str | int) -> np.ndarray:
        """Returns windows [first, first + count) of a stream, int32 [count, length]."""
        (num_states, size), uniforms = self.emissions.shape, uniform_integers(2 * length, first, count, *names)
        table = sampling_table(np.concatenate([self.transitions, self.stationary[None]]))
        emissions = sampling_table(self.emissions)
        symbols = np.empty((length, count), np.int32)
        states = np.full(count, num_states, np.int64)
        for step in range(length):
            states = draw(table, num_states, states, uniforms[2 * step])
            symbols[step] = draw(emissions, size, states, uniforms[2 * step + 1])
        return np.ascontiguousarray(symbols.T)


def hidden_markov_process(config: HiddenMarkovConfig) -> HiddenMarkovProcess:
    """Builds the process that the config describes; `process_seed` picks the tables."""

    def table(name: str, columns: int, scale: float) -> np.ndarray:
        names = ("hidden markov", config.process_seed, name)
        logits = spectral_matrix(
            config.num_states, columns, config.spectrum_exponent, (*names, "left"), (*names, "right")
        )
        return on_grid(softmax(logits * (scale / logits.std())))

    transitions = table("transitions", config.num_states, config.transition_scale)
    emissions = table("emissions", config.num_symbols, config.emission_scale)
    return HiddenMarkovProcess(transitions, emissions, on_grid(stationary_distribution(transitions)[None])[0])


def window_entropy(process: HiddenMarkovProcess, length: int, *names: str | int) -> tuple[float, float]:
    """Returns the mean entropy of symbols 1 to `length` of a window given those before, and its standard error, 0 where
    all windows were tried; nats per symbol. `names` determine the samples."""
    size = process.emissions.shape[1]
    known = longest_enumerable(size, length)
    tables = prefix_entropies(process.conditionals, size, known)
    exact = [float((p * h).sum()) for p, h in tables[1:]]
    sampled = length - known
    if not sampled:
        return float(np.mean(exact)), 0.0

    def sample(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        values, controls = [], []
        for begin in range(first, first + count, 2048):
            words = process.sample(length, begin, min(2048, first + count - begin), *names)
            predicted = process.conditionals(words)[:, known + 1 :]
            values.append(entropies(predicted).mean(axis=1))
            given = _given_the_last(words, [h for _, h in tables[1:]], known)
            controls.append(np.concatenate([given, predicted.mean(axis=1)], axis=1))
        return np.concatenate(values), np.concatenate(controls)

    means = np.concatenate([exact, product(process.stationary, process.emissions)])
    mean, stderr = estimate(sample, means, TOLERANCE * length / sampled)
    return (sum(exact) + sampled * mean) / length, stderr * sampled / length


def _given_the_last(words: np.ndarray, tables: list[np.ndarray], known: int) -> np.ndarray:
    """Returns the mean entropies of symbols past the first `known` + 1 of a window and what follows it, given only the
    last 1, ..., `known` before them, float64 [n, known], from those of all short words, [V^1], ..., [V^known]."""
    size = len(tables[0])
    place = np.zeros_like(words[:, known:], np.int64)
    controls = []
    for last, table in enumerate(tables):
        place = place + size**last * words[:, known - last : words.shape[1] - last]
        controls.append(table[place].mean(axis=1))
    return np.stack(controls, axis=1)


class HiddenMarkovDataset(ProcessDataset):
    """Windows of the stationary process: T + 1 symbols, one segment."""

    def __init__(self, config: HiddenMarkovConfig, seed: int, cache_dir: Path | None = None):
        super().__init__(config, seed, cache_dir)
        self.process = hidden_markov_process(config)
        self._sample_entropy(lambda *names: window_entropy(self.process, config.sequence_length, *names))

    def _windows(self, first: int, count: int, *names: str | int) -> Batch:
        symbols = self.process.sample(self.sequence_length + 1, first, count, *names)
        return decoder_batch(symbols[:, :-1], symbols[:, 1:])

    def target_distribution(self, inputs: np.ndarray) -> np.ndarray:
        return self.process.conditionals(inputs)[:, 1:]


build = HiddenMarkovDataset
