# SPDX-License-Identifier: Apache-2.0
"""Batches as the trainer sees them: the same whatever the hosts, restarts and batch size; held-out ones always."""

import itertools

import numpy as np
import pytest

from t5x_like.config import (
    ByteTokenizerConfig,
    ContextFreeConfig,
    GraphWalkConfig,
    HiddenMarkovConfig,
    HierarchyConfig,
    LanguageModelConfig,
    MarkovConfig,
)
from t5x_like.data import dataset as dataset_module
from t5x_like.data.packing import windows
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError

PROCESSES = {
    "markov": MarkovConfig(num_symbols=11, sequence_length=12),
    "markov of order 3": MarkovConfig(num_symbols=5, sequence_length=12, order=3),
    "graph_walk": GraphWalkConfig(num_symbols=11, sequence_length=12, mean_degree=3),
    "hidden_markov": HiddenMarkovConfig(num_symbols=2, num_states=3, sequence_length=12),
    "hierarchy": HierarchyConfig(num_symbols=5, num_rules=3, depth=2, sequence_length=12),
    "context_free": ContextFreeConfig(
        num_symbols=2, num_nonterminals=3, num_rules=2, num_words=2, mean_length=3.0, sequence_length=12
    ),
}


@pytest.fixture(params=["text", *PROCESSES])
def build(request, text_dataset):
    """Builds the same dataset anew at every call."""
    if request.param == "text":
        return lambda seed=0: text_dataset(seed=seed)
    return lambda seed=0: build_dataset(PROCESSES[request.param], seed)


def _assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def _joined(batches):
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _take(count, batches):
    return list(itertools.islice(batches, count))


def test_a_restart_goes_on_where_it_stopped(build):
    uninterrupted = _take(40, build().train_batches(6))
    for start in (0, 1, 17):
        for expected, batch in zip(uninterrupted[start:], build().train_batches(6, start=start), strict=False):
            _assert_same(batch, expected)


def test_hosts_share_the_single_host_batch_in_order(build):
    expected = _take(10, build().train_batches(12))
    for hosts in (2, 3, 12):
        parts = [_take(10, build().train_batches(12, host_index=host, host_count=hosts)) for host in range(hosts)]
        for index in range(10):
            assert len(parts[0][index]["decoder_input_tokens"]) == 12 // hosts
            _assert_same(_joined([part[index] for part in parts]), expected[index])


def test_stacked_batches_are_the_batches(build):
    for hosts in (1, 3):
        for host in range(hosts):
            place = {"host_index": host, "host_count": hosts}
            batches = _take(9, build().train_batches(6, start=4, **place))
            stacked = build().training_batches(4, 9, 6, **place)
            _assert_same(stacked, {name: np.stack([batch[name] for batch in batches]) for name in batches[0]})


def test_batch_size_does_not_change_which_rows_come(build):
    _assert_same(_joined(_take(12, build().train_batches(2))), _joined(_take(3, build().train_batches(8))))


def test_block_size_changes_nothing(build, monkeypatch):
    expected = _take(30, build().train_batches(5))
    monkeypatch.setattr(dataset_module, "_BLOCK_TOKENS", 12 * 7)  # batches straddle blocks of 7 rows
    for batch, other in zip(_take(30, build().train_batches(5)), expected, strict=True):
        _assert_same(batch, other)


def test_seeds_give_other_orders(build):
    one, two = (next(build(seed).train_batches(8))["decoder_input_tokens"] for seed in (0, 1))
    assert (one != two).any()


def test_grain_dataset_is_the_same_batches(build):
    batches = build().grain_batches(4)
    for index, expected in zip(range(5, 9), build().train_batches(4, start=5), strict=False):
        _assert_same(batches[index], expected)


def test_hosts_must_divide_the_batch(build):
    with pytest.raises(UserError, match="batch_size=6: not a multiple of the 4 hosts"):
        build().train_batches(6, host_count=4)
    with pytest.raises(UserError, match="batch_size=6: not a multiple of the 4 hosts"):
        build().eval_batches(6, 100, host_count=4)


def test_eval_does_not_depend_on_seed_or_batch_size_and_is_padded(build):
    tokens = 12 * 10 - 5  # ten rows
    reference = _joined(list(build().eval_batches(1, tokens)))
    assert len(reference["decoder_input_tokens"]) == 10
    for seed, size in ((0, 4), (3, 4), (1, 10), (1, 16)):
        batches = list(build(seed).eval_batches(size, tokens))
        assert len(batches) == -(-10 // size)
        assert all(value.shape[:2] == (size, 12) for batch in batches for value in batch.values())
        joined = _joined(batches)
        _assert_same({name: value[:10] for name, value in joined.items()}, reference)
        assert not joined["decoder_loss_weights"][10:].any()
        assert not joined["decoder_segment_ids"][10:].any()


def test_eval_hosts_share_the_single_host_batches(build):
    expected = list(build().eval_batches(4, 12 * 10))
    parts = [list(build().eval_batches(4, 12 * 10, host_index=host, host_count=4)) for host in range(4)]
    assert {len(part) for part in parts} == {3}
    for index, batch in enumerate(expected):
        _assert_same(_joined([part[index] for part in parts]), batch)


# ---------------------------------------------------------------------------------------------------------- text only


def _row_set(batch):
    return sorted(map(tuple, np.concatenate([batch[name] for name in sorted(batch)], axis=1).tolist()))


def test_an_epoch_is_every_full_window_once_and_the_next_another_order(text_dataset):
    dataset = text_dataset(length=12)
    count = (dataset.unique_tokens - 1) // 12
    epochs = [dataset.training_batch(index, count) for index in range(3)]
    every = windows(*dataset.streams["train"], np.arange(count), 12)
    for epoch in epochs:
        assert _row_set(epoch) == _row_set(every)
    orders = [every, *epochs]
    for one, two in itertools.combinations(orders, 2):
        same = (one["decoder_input_tokens"] == two["decoder_input_tokens"]).all(axis=1)
        assert same.mean() < 0.2


def test_training_rows_are_full(text_dataset):
    tokens = text_dataset(vocab_size=None).unique_tokens
    divisors = [length for length in range(2, tokens // 2) if tokens % length in (0, 1)]
    assert len(divisors) > 3
    for length in [*divisors, 9]:
        dataset = text_dataset(length=length, vocab_size=None)
        epoch = dataset.training_batch(0, (tokens - 1) // length)
        assert epoch["decoder_loss_weights"].all()
        every = windows(*dataset.streams["train"], np.arange((tokens - 1) // length), length)
        assert _row_set(epoch) == _row_set(every)


def test_batches_hold_the_training_files_and_only_them(text_dataset, tmp_path):
    """From the batches back to text, with brute force over the files."""
    dataset = text_dataset(length=12, vocab_size=None)
    files = {path.read_bytes().decode() for path in (tmp_path / "books").rglob("*.txt")}
    texts = {}
    for split, stream in ((split, ragged.stream) for split, ragged in dataset.streams.items()):
        pieces = "".join("|SEP|" if token == 0 else chr(token - 1) for token in stream.tolist()).split("|SEP|")[1:]
        texts[split] = {piece.encode("latin-1").decode() for piece in pieces}
    assert texts["train"] | texts["held_out"] == files
    assert not texts["train"] & texts["held_out"]
    assert dataset.unique_tokens == sum(len(text.encode()) + 1 for text in texts["train"])
    held_out_bytes = sum(len(text.encode()) for text in texts["held_out"])
    assert dataset.held_out_bytes_per_token == held_out_bytes / (held_out_bytes + len(texts["held_out"]))


def test_eval_is_capped_at_what_there_is(text_dataset):
    dataset = text_dataset(length=12)
    batch = _joined(list(dataset.eval_batches(7, 10**9)))
    held_out = dataset.description["held_out_tokens"]
    assert batch["decoder_loss_weights"].sum() == held_out - 1
    real = batch["decoder_loss_weights"] > 0
    assert sorted(batch["decoder_target_tokens"][real]) == sorted(dataset.streams["held_out"].stream[1:].tolist())


def test_eval_windows_are_spread_over_the_stream(text_dataset):
    dataset = text_dataset(length=4, count=60)
    order = dataset._held_out_order
    assert sorted(order) == list(range(len(order)))
    assert abs(order[: len(order) // 4].mean() / len(order) - 0.5) < 0.15


def test_a_stream_shorter_than_one_window_is_padded(text_dataset):
    dataset = text_dataset(length=100_000, count=3, words=5, vocab_size=None)
    batch = dataset.training_batch(3, 2)
    assert batch["decoder_loss_weights"].sum(axis=1).tolist() == [dataset.unique_tokens - 1] * 2
    assert not batch["decoder_segment_ids"][:, dataset.unique_tokens - 1 :].any()


def test_the_real_library(tmp_path):
    config = LanguageModelConfig(sequence_length=256, tokenizer=ByteTokenizerConfig())
    dataset = build_dataset(config, 0, tmp_path)
    assert dataset.vocab_size == 257
    assert dataset.unique_tokens > 4e6
    assert 0.999 < dataset.held_out_bytes_per_token < 1
    batch = dataset.training_batch(0, 64)
    text = dataset.tokenizer.decode(batch["decoder_input_tokens"].ravel())
    assert "self" in text
    assert "def " in text
    assert build_dataset(config, 1, tmp_path).fingerprint == dataset.fingerprint
