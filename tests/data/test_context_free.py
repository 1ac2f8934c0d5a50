# SPDX-License-Identifier: Apache-2.0
"""Grammars against all their derivations, closed forms of branching processes, and their own samples."""

import functools
import itertools
import math

import numpy as np
import pytest

from t5x_like.config import ContextFreeConfig
from t5x_like.data.processes import context_free
from t5x_like.data.processes.chains import entropies
from t5x_like.data.processes.context_free import (
    ContextFreeDataset,
    Grammar,
    by_length,
    derive,
    length_moments,
    random_grammar,
    window_entropy,
)
from t5x_like.data.processes.entropy import all_words, prefix_entropies
from t5x_like.strict import FieldError

TINY = ContextFreeConfig(
    num_symbols=2, num_nonterminals=3, num_rules=3, num_words=2, mean_length=1.3, sequence_length=6, rule_exponent=0.7
)


def _strings(grammar, most):
    """Probabilities of all strings of at most `most` symbols: added up over all derivations, halves by halves."""

    @functools.cache
    def derived(nonterminal, length):
        if length == 1:
            return {(word,): p for word, p in enumerate(grammar.emit[nonterminal].tolist()) if p > 0}
        total = {}
        for (left, right), p in zip(grammar.pairs[nonterminal].tolist(), grammar.branch[nonterminal], strict=True):
            for k in range(1, length):
                halves = itertools.product(derived(left, k).items(), derived(right, length - k).items())
                for (a, pa), (b, pb) in halves:
                    total[a + b] = total.get(a + b, 0.0) + p * pa * pb
        return total

    return {string: p for length in range(1, most + 1) for string, p in derived(0, length).items()}


def _prefix_probabilities(grammar, most=55):
    """Returns P(a string begins with ...): by the textbook's inside recursion, with any symbols behind."""
    anything = grammar.emit.sum(axis=1)
    rules = [list(zip(p.tolist(), q.tolist(), strict=True)) for p, q in zip(grammar.pairs, grammar.branch, strict=True)]

    @functools.cache
    def inside(a, known, length):  # of words of that length whose first symbols are `known`
        if length == 1:
            return grammar.emit[a, known[0]] if known else anything[a]
        return sum(
            p * inside(b, known[:k], k) * inside(c, known[k:], length - k)
            for (b, c), p in rules[a]
            for k in range(1, length)
        )

    return functools.cache(lambda prefix: sum(inside(0, prefix, n) for n in range(max(1, len(prefix)), most)))


def _polish(branching):
    """Polish notation, S -> O P | x, P -> S S, O -> o: no string has two trees. o is terminal 0, x terminal 1."""
    pairs = np.array([[[1, 2]], [[0, 0]], [[0, 0]]])
    return Grammar(pairs, np.array([[branching], [0.0], [1.0]]), np.array([[0, 1 - branching], [1.0, 0], [0, 0]]))


def test_strings_have_the_probabilities_of_all_their_derivations():
    grammar = random_grammar(TINY)
    for string, probability in _strings(grammar, 5).items():
        _, ends = grammar.predict(grammar.emit.T[np.array([string])])
        assert ends[0, -1] == pytest.approx(probability, rel=1e-12)
        assert ends[0, 0] == 0


def test_conditionals_are_quotients_of_prefix_probabilities():
    grammar = random_grammar(TINY)
    strings = _strings(grammar, 4)
    truth = grammar.conditionals(all_words(2, 4))
    prefix = _prefix_probabilities(grammar)
    assert prefix(()) == pytest.approx(1, abs=1e-12)
    for word, rows in zip(all_words(2, 4).tolist(), truth, strict=True):
        for known in range(5):
            start = tuple(word[:known])
            expected = [prefix((*start, 0)), prefix((*start, 1)), strings.get(start, 0.0)]
            np.testing.assert_allclose(rows[known], np.array(expected) / prefix(start), atol=1e-11)


def test_joint_probabilities_of_what_follows_add_up():
    """What can follow a prefix adds up to the prefix: so recursion has been summed to its end."""
    grammar = random_grammar(ContextFreeConfig(process_seed=2, mean_length=20.0))
    words = derive(grammar, 12, 0, 64, "test", one_string=True)
    for _, some in by_length(words, 32, 1):
        following, ends = grammar.predict(grammar.emit.T[some])
        total = following.sum(axis=-1) + ends
        np.testing.assert_allclose(total[:, 0], 1, atol=1e-12)
        one_more = np.take_along_axis(following[:, :-1], some[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(total[:, 1:], one_more, rtol=1e-11)


def test_lengths_are_those_of_a_branching_process():
    config = ContextFreeConfig(mean_length=4.0)
    grammar = random_grammar(config)
    q = 3 / 7
    lengths, places = length_moments(grammar, 12)
    catalan = [math.comb(2 * n, n) // (n + 1) for n in range(12)]
    expected = [0.0, *(c * q**n * (1 - q) ** (n + 1) for n, c in enumerate(catalan))]
    np.testing.assert_allclose(lengths, expected, atol=1e-9)
    np.testing.assert_allclose(places.sum(axis=1), 1 - np.cumsum(expected), atol=1e-9)
    more, _ = length_moments(random_grammar(ContextFreeConfig(mean_length=1.5)), 60)
    assert more @ np.arange(61) == pytest.approx(1.5, abs=1e-6)


def test_without_ambiguity_strings_have_the_entropy_of_derivations():
    q = 0.03
    grammar = _polish(q)
    binary = -q * math.log(q) - (1 - q) * math.log(1 - q)
    assert grammar.derivation_entropy == pytest.approx(binary / (1 - 2 * q), abs=1e-12)  # 1/(1 - 2 q) choices
    tables = prefix_entropies(grammar.conditionals, 2, 13)
    by_prefixes = sum(float((p * h).sum()) for p, h in tables)
    assert by_prefixes == pytest.approx(grammar.derivation_entropy, abs=1e-5)


def test_ambiguity_hides_some_of_a_derivations_entropy():
    grammar = random_grammar(TINY)
    strings = np.array(list(_strings(grammar, 8).values()))
    of_strings = -(strings * np.log(strings)).sum()
    assert 1 - strings.sum() < 1e-3
    assert of_strings < grammar.derivation_entropy - 0.02


def _brute_window_entropy(grammar, length):
    """From the probabilities of all windows of targets, and of all beginnings of them."""
    end = grammar.emit.shape[1]
    strings, prefix = _strings(grammar, length), _prefix_probabilities(grammar)

    def probability(window):
        pieces, piece = [], []
        for symbol in window:
            if symbol == end:
                pieces.append(tuple(piece))
                piece = []
            else:
                piece.append(symbol)
        return math.prod(strings.get(each, 0.0) for each in pieces) * prefix(tuple(piece))

    windows = np.array([probability(w) for w in itertools.product(range(end + 1), repeat=length)])
    assert windows.sum() == pytest.approx(1, abs=1e-10)
    return float(entropies(windows)) / length  # a window begins where a string does, so nothing else is given


def test_window_entropy_is_that_of_all_windows():
    grammar = random_grammar(TINY)
    for length in (1, 2, 5):
        entropy, stderr = window_entropy(grammar, length, "test")
        assert entropy == pytest.approx(_brute_window_entropy(grammar, length), abs=1e-10)
        assert stderr == 0.0


def test_sampled_entropy_agrees_with_the_exact_one(monkeypatch):
    config = ContextFreeConfig(num_symbols=2, num_nonterminals=3, num_rules=2, num_words=2, mean_length=4.0)
    grammar = random_grammar(config)
    exact, none = window_entropy(grammar, 10, "test")
    assert none == 0.0
    monkeypatch.setattr(context_free, "longest_enumerable", lambda size, most: min(2, most))
    sampled, stderr = window_entropy(grammar, 10, "test")
    again, _ = window_entropy(grammar, 10, "another test")
    assert 0 < stderr <= 1e-4
    assert abs(sampled - exact) < 4 * stderr
    assert abs(again - exact) < 4 * stderr
    assert sampled != again


def test_samples_agree_with_the_probabilities_of_windows():
    config = ContextFreeConfig(
        num_symbols=2, num_nonterminals=3, num_rules=2, num_words=2, mean_length=3.0, sequence_length=5
    )
    dataset = ContextFreeDataset(config, 1)
    batch = dataset.training_batch(0, 40_000)
    windows, found = np.unique(batch["decoder_target_tokens"], axis=0, return_counts=True)
    inputs = np.concatenate([np.full((len(windows), 1), 2), windows[:, :-1]], axis=1)
    truth = dataset.target_distribution(inputs)
    expected = np.take_along_axis(truth, windows[..., None], axis=-1)[..., 0].prod(axis=1)
    deviation = np.sqrt(expected * (1 - expected) / 40_000)
    assert (np.abs(found / 40_000 - expected) < 5 * deviation + 4 / 40_000).all()
    assert 1 - expected.sum() < 0.005  # what never came up


def test_derivations_may_take_any_number_of_choices():
    """Strings of 30 symbols on average, cut after 4: many recur deeper on the left than the first numbers last."""
    grammar = random_grammar(ContextFreeConfig(mean_length=30.0))
    words = derive(grammar, 4, 0, 30_000, "test", one_string=True)
    lengths, places = length_moments(grammar, 4)
    for known in range(1, 4):
        share = (words[:, known] == 32).mean()
        expected = lengths[: known + 1].sum()
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / 30_000)
    for place in range(4):
        share = np.bincount(words[:, place], minlength=33)[:32] / 30_000
        assert (np.abs(share - places[place]) < 5 * np.sqrt(places[place] / 30_000) + 4 / 30_000).all()
    np.testing.assert_array_equal(derive(grammar, 4, 100, 50, "test", one_string=True), words[100:150])


def test_windows_are_streams_of_strings():
    dataset = ContextFreeDataset(TINY, 0)
    batch = dataset.training_batch(0, 300)
    inputs, targets = batch["decoder_input_tokens"], batch["decoder_target_tokens"]
    assert (inputs[:, 0] == 2).all()
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    for row, segments, positions in zip(inputs, batch["decoder_segment_ids"], batch["decoder_positions"], strict=True):
        segment = position = 0
        for place, symbol in enumerate(row):
            segment, position = (segment + 1, 0) if symbol == 2 else (segment, position + 1)
            assert (segments[place], positions[place]) == (segment, position)


def test_eval_batches_carry_the_truth_and_zeros_for_padding():
    dataset = ContextFreeDataset(TINY, 0)
    (batch,) = dataset.eval_batches(6000, 5000 * 6)
    truth = batch["decoder_target_distribution"]
    assert not truth[5000:].any()
    np.testing.assert_allclose(truth[:5000].sum(axis=-1), 1, atol=1e-6)
    h = entropies(truth[:5000].astype(np.float64)).mean(axis=1)
    assert abs(h.mean() - dataset.exact_entropy) < 4 * h.std() / math.sqrt(5000)
    hit = np.take_along_axis(truth[:5000], batch["decoder_target_tokens"][:5000, :, None], axis=-1)[..., 0]
    loss = -np.log(hit).mean(axis=1)
    assert abs(loss.mean() - dataset.exact_entropy) < 4 * loss.std() / math.sqrt(5000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_rules": 65}, "65 is outside 1 to 64"),
        ({"num_words": 33}, "33 is outside 1 to 32"),
        ({"mean_length": 1.0}, "1.0 is outside 1.01 to 64"),
        ({"sequence_length": 129}, "129 is outside 1 to 128"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(FieldError, match=f"^{message}$"):
        ContextFreeConfig(**changes)
