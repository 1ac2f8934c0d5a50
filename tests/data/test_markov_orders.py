# SPDX-License-Identifier: Apache-2.0
"""Chains of higher order against all their windows; order 1 gives the sequences that it always gave."""

import hashlib
import itertools

import numpy as np
import pytest

from t5x_like.config import MarkovConfig
from t5x_like.data.processes.markov import MarkovDataset, MarkovProcess, _stationary_contexts, markov_process
from t5x_like.errors import UserError
from t5x_like.strict import FieldError

SMALL = [MarkovConfig(num_symbols=3, order=2), MarkovConfig(num_symbols=2, order=3, logit_scale=3.0, process_seed=4)]


def _entropy(probabilities):
    positive = probabilities[probabilities > 0]
    return -(positive * np.log(positive)).sum()


def _joint(process, length):
    """Probabilities of all words of the stationary chain, one dimension a symbol: by brute force."""
    size, order = process.transitions.shape[1], process.order
    joint = np.zeros((size,) * length)
    for word in itertools.product(range(size), repeat=length):
        probability = process.stationary[int("".join(map(str, word[:order])), size)]
        for place in range(order, length):
            context = int("".join(map(str, word[place - order : place])), size)
            probability *= process.transitions[context, word[place]]
        joint[word] = probability
    return joint


@pytest.mark.parametrize("config", SMALL)
def test_entropies_are_those_of_all_windows(config):
    process = markov_process(config)
    joint = _joint(process, 7)
    entropies = [_entropy(joint.sum(axis=tuple(range(known, 7)))) for known in range(8)]
    differences = np.diff(entropies)  # of symbol k given those before
    for length in range(1, 7):
        assert process.window_entropy(length) == pytest.approx(differences[1 : length + 1].mean(), abs=1e-8)
    assert process.entropy_rate == pytest.approx(differences[-1], abs=1e-8)
    dataset = MarkovDataset(config, 0)
    assert dataset.exact_entropy == process.window_entropy(16) > dataset.entropy_rate == process.entropy_rate


@pytest.mark.parametrize("config", SMALL)
def test_target_distributions_are_conditionals_of_the_stationary_chain(config):
    dataset = MarkovDataset(config, 0)
    size, length = config.num_symbols, 5
    joint = _joint(dataset.process, length + 1)
    words = np.array(list(itertools.product(range(size), repeat=length)))
    truth = dataset.target_distribution(words)
    for word, rows in zip(words, truth, strict=True):
        for known in range(1, length + 1):
            following = joint[tuple(word[:known])].reshape(size, -1).sum(axis=1)
            np.testing.assert_allclose(rows[known - 1], following / following.sum(), atol=2e-8)  # the grid's 2^-32


@pytest.mark.parametrize("config", [*SMALL, MarkovConfig(num_symbols=32, order=2)])
def test_contexts_are_stationary(config):
    process = markov_process(config)
    joint = process.stationary[:, None] * process.transitions
    after = joint.reshape(config.num_symbols, -1).sum(axis=0)
    np.testing.assert_allclose(after, process.stationary, rtol=1e-12)
    np.testing.assert_array_equal(process.transitions.sum(axis=1), 1.0)


def test_samples_agree_with_the_probabilities_of_windows():
    config = MarkovConfig(num_symbols=3, order=2, sequence_length=4)
    dataset = MarkovDataset(config, 3)
    batch = dataset.training_batch(0, 40_000)
    windows = np.concatenate([batch["decoder_input_tokens"], batch["decoder_target_tokens"][:, -1:]], axis=1)
    counts = np.bincount(windows @ 3 ** np.arange(5)[::-1], minlength=3**5)
    expected = _joint(dataset.process, 5).ravel()
    deviation = np.sqrt(expected * (1 - expected) / len(windows))
    rare = 4 / len(windows)  # a window that is expected less than once may come up a few times
    assert (np.abs(counts / len(windows) - expected) < 5 * deviation + rare).all()


def test_every_lag_has_its_spectrum_and_lags_do_not_interact():
    size = 24
    logits = np.log(markov_process(MarkovConfig(num_symbols=size, order=2, spectrum_exponent=1.25)).transitions)
    logits = logits.reshape(size, size, size)
    logits -= logits.mean(axis=2, keepdims=True)
    main = [logits.mean(axis=other, keepdims=True) for other in (0, 1)]
    mean = logits.mean(axis=(0, 1), keepdims=True)
    np.testing.assert_allclose(logits, main[0] + main[1] - mean, atol=1e-3)  # rare symbols are rounded to the grid
    for lag in main:
        values = np.linalg.svd((lag - mean).reshape(size, size), compute_uv=False)
        slope = np.polyfit(np.log(np.arange(2, 15)), np.log(values[1:14]), 1)[0]
        assert slope == pytest.approx(-1.25, abs=0.12)
    assert main[0].std() == pytest.approx(main[1].std(), rel=0.1)


def test_order_1_is_the_chain_that_it_was():
    """Made before there was an order: other numbers would make the losses of old runs incomparable."""
    before = {
        "344e7b4c1c5b3834": (MarkovConfig(), "0x1.f17c5880f3fd8p+1", "98805f9995406ddf"),
        "5e5921f9ec573bef": (
            MarkovConfig(num_symbols=7, logit_scale=6.0, process_seed=3, sequence_length=9),
            "0x1.927a610dfeafap-3",
            "2ddb87c17303a47d",
        ),
    }
    for fingerprint, (config, entropy, symbols) in before.items():
        dataset = MarkovDataset(config, 4)
        assert dataset.fingerprint == fingerprint
        assert dataset.exact_entropy == pytest.approx(float.fromhex(entropy), abs=1e-14)
        tokens = dataset.training_batch(3, 50)["decoder_target_tokens"].astype("<i4")
        assert hashlib.sha256(tokens.tobytes()).hexdigest()[:16] == symbols
    longer = MarkovDataset(MarkovConfig(num_symbols=7, order=2), 0)
    assert longer.fingerprint != MarkovDataset(MarkovConfig(num_symbols=7), 0).fingerprint


def test_a_chain_that_hardly_mixes_is_refused(monkeypatch):
    monkeypatch.setattr("t5x_like.data.processes.markov._MOST_ITERATIONS", 50)
    stays = np.full((4, 2), 1e-6)
    stays[[0, 1, 2, 3], [0, 0, 1, 1]] = 1 - 1e-6
    with pytest.raises(UserError, match=r"^data\.logit_scale: the chain mixes too slowly"):
        _stationary_contexts(np.where(np.arange(4)[:, None] == 1, [[0.7, 0.3]], stays))


def test_refusals():
    with pytest.raises(FieldError, match=r"^2 with num_symbols=256 has 256\^3 transition probabilities, above"):
        MarkovConfig(num_symbols=256, order=2)
    with pytest.raises(FieldError, match=r"^0 is below 1$"):
        MarkovConfig(order=0)
    with pytest.raises(FieldError, match=r"above the 4194304 that are stored$"):
        MarkovConfig(num_symbols=2, order=10**9)


def test_a_process_made_by_hand():
    """Two symbols that alternate but for a slip: closed form."""
    slip = 0.1
    table = np.array([[slip, 1 - slip], [1 - slip, slip]])
    process = MarkovProcess((np.array([[0.5, 0.5]]), table), np.array([0.5, 0.5]))
    binary = -slip * np.log(slip) - (1 - slip) * np.log(1 - slip)
    assert process.entropy_rate == pytest.approx(binary, abs=1e-15)
    assert process.window_entropy(3) == process.entropy_rate
