# SPDX-License-Identifier: Apache-2.0
"""The random hierarchy model against all its strings."""

import itertools
import math

import numpy as np
import pytest

from t5x_like.config import HierarchyConfig
from t5x_like.data.processes.hierarchy import HierarchyDataset, hierarchy_grammar
from t5x_like.strict import FieldError

CONFIGS = [
    HierarchyConfig(num_symbols=3, num_rules=2, depth=2, sequence_length=8),
    HierarchyConfig(num_symbols=4, num_rules=3, depth=2, rule_exponent=1.5, process_seed=1),
    HierarchyConfig(num_symbols=2, num_rules=3, depth=2, branching=3, rule_exponent=0.5, sequence_length=9),
    HierarchyConfig(num_symbols=2, num_rules=2, depth=3, sequence_length=8),
    HierarchyConfig(num_symbols=5, num_rules=1, depth=1, branching=4, sequence_length=4),
]


def _strings(grammar):
    """(string, probability) of every tree, by brute force from the root."""

    def expand(symbols, probability, level):
        if level == grammar.depth:
            yield tuple(symbols), probability
            return
        for chosen in itertools.product(range(len(grammar.choices)), repeat=len(symbols)):
            below = [b for a, r in zip(symbols, chosen, strict=True) for b in grammar.rules[level][a, r].tolist()]
            yield from expand(below, probability * math.prod(grammar.choices[list(chosen)]), level + 1)

    for root, probability in enumerate(grammar.root):
        yield from expand([root], probability, 0)


@pytest.mark.parametrize("config", CONFIGS)
def test_conditionals_and_entropy_are_those_of_all_strings(config):
    grammar = hierarchy_grammar(config)
    pairs = list(_strings(grammar))
    strings, probabilities = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])
    assert len(set(map(tuple, strings.tolist()))) == len(pairs)  # no string has two trees
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    size, length = config.num_symbols, config.string_length
    assert strings.shape[1] == length
    some = np.random.default_rng(0).permutation(len(strings))[:200]
    truth = grammar.conditionals(strings[some])
    for string, rows in zip(strings[some], truth, strict=True):
        for known in range(length):
            same = (strings[:, :known] == string[:known]).all(axis=1)
            following = np.bincount(strings[same, known], probabilities[same], size)
            np.testing.assert_allclose(rows[known], following / following.sum(), atol=1e-12)
    brute = -(probabilities * np.log(probabilities)).sum()
    assert grammar.string_entropy == pytest.approx(brute, abs=1e-11)
    assert HierarchyDataset(config, 0).exact_entropy == pytest.approx(brute / length, abs=1e-11)


def test_the_closed_form_of_the_paper():
    entropy = HierarchyDataset(HierarchyConfig(), 0).exact_entropy
    assert entropy == pytest.approx((math.log(16) + 15 * math.log(4)) / 16, abs=1e-9)


def test_rules_are_different_tuples():
    config = HierarchyConfig(num_symbols=6, num_rules=6, depth=3, sequence_length=8)
    for rules in hierarchy_grammar(config).rules:
        assert len({tuple(rule) for rule in rules.reshape(-1, 2).tolist()}) == 36  # all there are
    levels = hierarchy_grammar(HierarchyConfig()).rules
    assert all((one != two).any() for one, two in itertools.combinations(levels, 2))


def test_samples_agree_with_the_probabilities_of_strings():
    dataset = HierarchyDataset(CONFIGS[1], 2)
    batch = dataset.training_batch(0, 10_000)
    strings = batch["decoder_target_tokens"].reshape(-1, 4)
    found, counts = np.unique(strings, axis=0, return_counts=True)
    counts = dict(zip(map(tuple, found.tolist()), counts.tolist(), strict=True))
    expected = dict(_strings(dataset.grammar))
    assert counts.keys() <= expected.keys()
    for string, probability in expected.items():
        deviation = math.sqrt(probability * (1 - probability) * len(strings))
        assert abs(counts.get(string, 0) - probability * len(strings)) < 5 * deviation
    first, second = (batch["decoder_target_tokens"].reshape(-1, 4, 4)[:, i, 0] for i in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05  # strings of a window are independent


def test_windows_hold_whole_strings_behind_start_symbols():
    dataset = HierarchyDataset(CONFIGS[0], 0)
    batch = dataset.training_batch(1, 7)
    inputs, targets = batch["decoder_input_tokens"], batch["decoder_target_tokens"]
    assert dataset.vocab_size == 4
    assert (inputs[:, [0, 4]] == 3).all()
    assert targets.max() < 3
    for begin in (0, 4):
        np.testing.assert_array_equal(inputs[:, begin + 1 : begin + 4], targets[:, begin : begin + 3])
    assert (batch["decoder_segment_ids"] == [1, 1, 1, 1, 2, 2, 2, 2]).all()
    assert (batch["decoder_positions"] == [0, 1, 2, 3, 0, 1, 2, 3]).all()


def test_eval_batches_carry_the_truth_and_zeros_for_padding():
    dataset = HierarchyDataset(HierarchyConfig(num_rules=3, sequence_length=32), 0)
    (batch,) = dataset.eval_batches(600, 500 * 32)
    truth = batch["decoder_target_distribution"]
    assert truth.shape == (600, 32, 17)
    assert np.isfinite(truth).all()
    np.testing.assert_allclose(truth[:500].sum(axis=-1), 1, atol=1e-6)
    assert not truth[..., 16].any()
    hit = np.take_along_axis(truth[:500], batch["decoder_target_tokens"][:500, :, None], axis=-1)[..., 0]
    assert (hit > 0).all()
    per_string = -np.log(hit).reshape(-1, 16).mean(axis=1)
    assert per_string.std() < 1e-6  # productions are equally likely, so strings are
    assert per_string.mean() == pytest.approx(dataset.exact_entropy, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"num_rules": 17}, "num_rules", r"17 is above num_symbols\^\(branching - 1\)=16: rules would be ambiguous"),
        ({"sequence_length": 24}, "sequence_length", r"24 is no multiple of branching\^depth=16: .*"),
        ({"branching": 6, "num_symbols": 16}, "branching", "6 with num_symbols=16 has 16777216 right-hand sides .*"),
        ({"depth": 0}, "depth", "0 is below 1"),
        ({"branching": 1}, "branching", "1 is outside 2 to 16"),
    ],
)
def test_refusals(changes, field, message):
    with pytest.raises(FieldError, match=f"^{message}$") as caught:
        HierarchyConfig(**changes)
    assert caught.value.field == field
