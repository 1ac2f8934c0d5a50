# SPDX-License-Identifier: Apache-2.0
"""The forward filter and the entropies against sums over all hidden paths, and against special cases."""

import itertools
import math

import numpy as np
import pytest

from t5x_like.config import HiddenMarkovConfig
from t5x_like.data.processes import hidden_markov
from t5x_like.data.processes.entropy import all_words
from t5x_like.data.processes.hidden_markov import (
    HiddenMarkovDataset,
    HiddenMarkovProcess,
    hidden_markov_process,
    window_entropy,
)
from t5x_like.data.processes.markov import MarkovProcess
from t5x_like.strict import FieldError

SMALL = HiddenMarkovConfig(num_symbols=3, num_states=2, sequence_length=5, process_seed=1)


def _joint(process, length):
    """Probabilities of all words, one dimension a symbol: summed over all hidden paths."""
    num_states, size = process.emissions.shape
    joint = np.zeros((size,) * length)
    for path in itertools.product(range(num_states), repeat=length):
        steps = [process.transitions[a, b] for a, b in itertools.pairwise(path)]
        emitted = process.stationary[path[0]] * math.prod(steps)
        for place, state in enumerate(path):
            shape = [1] * length
            shape[place] = size
            emitted = emitted * process.emissions[state].reshape(shape)
        joint += emitted
    return joint


def _brute_entropy(joint):
    def entropy(known):
        marginal = joint.sum(axis=tuple(range(known, joint.ndim)))
        return -(marginal * np.log(marginal)).sum()

    return (entropy(joint.ndim) - entropy(1)) / (joint.ndim - 1)


def test_conditionals_and_entropy_are_those_of_all_windows():
    dataset = HiddenMarkovDataset(SMALL, 0)
    joint = _joint(dataset.process, 6)
    assert joint.sum() == pytest.approx(1, abs=1e-12)
    words = all_words(3, 5)
    truth = dataset.target_distribution(words)
    for word, rows in zip(words, truth, strict=True):
        for known in range(1, 6):
            following = joint[tuple(word[:known])].reshape(3, -1).sum(axis=1)
            np.testing.assert_allclose(rows[known - 1], following / following.sum(), atol=1e-12)
    assert dataset.exact_entropy == pytest.approx(_brute_entropy(joint), abs=1e-9)  # the grid's 2^-32: of the start
    assert dataset.exact_entropy_stderr == 0.0
    assert dataset.entropy_rate is None


def test_sampled_entropy_agrees_with_the_exact_one(monkeypatch):
    """Of a process small enough for both, as though only prefixes of two symbols could be tried."""
    process = hidden_markov_process(HiddenMarkovConfig(num_symbols=2, num_states=3, process_seed=5))
    exact, none = window_entropy(process, 10, "test")
    assert none == 0.0
    monkeypatch.setattr(hidden_markov, "longest_enumerable", lambda size, most: 2)
    sampled, stderr = window_entropy(process, 10, "test")
    again, _ = window_entropy(process, 10, "another test")
    assert 0 < stderr <= 1e-4
    assert abs(sampled - exact) < 4 * stderr
    assert abs(again - exact) < 4 * stderr
    assert sampled != again
    assert (sampled, stderr) == window_entropy(process, 10, "test")


def test_states_that_emit_alike_are_independent_symbols():
    row = np.array([0.5, 0.25, 0.25])
    process = HiddenMarkovProcess(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([row, row]), np.array([0.75, 0.25]))
    entropy, _ = window_entropy(process, 4)
    assert entropy == pytest.approx(1.5 * math.log(2), abs=1e-14)


def test_states_that_show_are_a_markov_chain():
    transitions, stationary = np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0.75, 0.25])
    entropy, _ = window_entropy(HiddenMarkovProcess(transitions, np.eye(2), stationary), 6)
    chain = MarkovProcess((stationary[None], transitions), stationary)
    assert entropy == pytest.approx(chain.entropy_rate, abs=1e-14)


def test_samples_agree_with_the_probabilities_of_windows():
    dataset = HiddenMarkovDataset(SMALL, 7)
    batch = dataset.training_batch(0, 40_000)
    windows = np.concatenate([batch["decoder_input_tokens"], batch["decoder_target_tokens"][:, -1:]], axis=1)
    counts = np.bincount(windows @ 3 ** np.arange(6)[::-1], minlength=3**6)
    expected = _joint(dataset.process, 6).ravel()
    deviation = np.sqrt(expected * (1 - expected) / len(windows))
    rare = 4 / len(windows)
    assert (np.abs(counts / len(windows) - expected) < 5 * deviation + rare).all()


def test_a_long_past_matters():
    """Otherwise a Markov chain would do: entropies go on falling, beyond the last symbol, and never rise."""
    process = hidden_markov_process(HiddenMarkovConfig(num_symbols=4, num_states=6, sequence_length=8))
    means = [window_entropy(process, length)[0] * length for length in range(1, 8)]
    falls = -np.diff(np.diff([0.0, *means]))
    assert (falls > 1e-6).all()


def test_entropies_that_were_computed_are_kept(tmp_path, monkeypatch):
    first = HiddenMarkovDataset(SMALL, 0, tmp_path)
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(hidden_markov, "window_entropy", lambda *rest: pytest.fail("computed again"))
    assert HiddenMarkovDataset(SMALL, 3, tmp_path).exact_entropy == first.exact_entropy
    monkeypatch.undo()
    kept.write_text("{")  # damaged: computed again
    assert HiddenMarkovDataset(SMALL, 3, tmp_path).exact_entropy == first.exact_entropy
    assert kept.read_text() != "{"
    longer = HiddenMarkovConfig(num_symbols=3, num_states=2, sequence_length=6, process_seed=1)
    assert HiddenMarkovDataset(longer, 0, tmp_path).exact_entropy < first.exact_entropy
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert HiddenMarkovDataset(SMALL, 0, blocked).exact_entropy == first.exact_entropy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_states": 1}, "1 is below 2"),
        ({"num_states": 256}, "256 with num_symbols=64 costs 81920 products a symbol in the filter, above 32768"),
        ({"emission_scale": 0.0}, "0.0 is not above 0"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(FieldError, match=f"^{message}$"):
        HiddenMarkovConfig(**changes)
