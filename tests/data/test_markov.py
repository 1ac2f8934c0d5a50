# SPDX-License-Identifier: Apache-2.0
"""The chain against closed forms, brute force and its own samples."""

import numpy as np
import pytest

from t5x_like.config import MarkovConfig
from t5x_like.data.processes.chains import random_orthogonal
from t5x_like.data.processes.markov import MarkovDataset, markov_process
from t5x_like.data.processes.sampling import draw
from t5x_like.strict import FieldError


def _tokens(dataset, rows):
    """[rows, T + 1] symbols of the first training windows."""
    batch = dataset.training_batch(0, rows)
    return np.concatenate([batch["decoder_input_tokens"], batch["decoder_target_tokens"][:, -1:]], axis=1)


def test_two_states_against_the_closed_form():
    process = markov_process(MarkovConfig(num_symbols=2, logit_scale=1.0))
    (_, p01), (p10, _) = process.transitions
    pi = np.array([p10, p01]) / (p01 + p10)
    np.testing.assert_allclose(process.stationary, pi, atol=1e-14)
    binary = [-p * np.log(p) - (1 - p) * np.log(1 - p) for p in (p01, p10)]
    assert process.entropy_rate == pytest.approx(pi @ binary, abs=1e-14)


@pytest.mark.parametrize("config", [MarkovConfig(), MarkovConfig(num_symbols=7, logit_scale=6.0, process_seed=3)])
def test_stationary_distribution_and_rows(config):
    process = markov_process(config)
    assert (process.transitions > 0).all()
    np.testing.assert_array_equal(process.transitions.sum(axis=1), 1.0)  # exact: multiples of 2^-32
    np.testing.assert_allclose(process.stationary @ process.transitions, process.stationary, atol=1e-13)
    powers = np.linalg.matrix_power(process.transitions, 2**20)  # brute force: where every start leads
    np.testing.assert_allclose(powers, np.broadcast_to(process.stationary, powers.shape), atol=1e-9)


def test_random_orthogonal_matrices():
    many = np.array([random_orthogonal(4, seed, "left") for seed in range(2000)])
    np.testing.assert_allclose(many @ many.transpose(0, 2, 1), np.broadcast_to(np.eye(4), many.shape), atol=1e-14)
    np.testing.assert_allclose((many**2).mean(axis=0), 1 / 4, atol=0.03)  # moments of the uniform distribution,
    np.testing.assert_allclose((many**4).mean(axis=0), 3 / 24, atol=0.03)  # five standard errors
    assert abs(many.mean(axis=0)).max() < 0.06
    traces = np.trace(many, axis1=1, axis2=2)
    assert traces.var() == pytest.approx(1, abs=0.16)
    assert (random_orthogonal(4, 0, "left") != random_orthogonal(4, 0, "right")).all()


def test_spectrum_and_scale_of_the_logits():
    config = MarkovConfig(num_symbols=64, spectrum_exponent=1.25, logit_scale=0.8)
    logits = np.log(markov_process(config).transitions)  # up to a constant in each row
    centred = logits - logits.mean(axis=1, keepdims=True)
    values = np.linalg.svd(centred, compute_uv=False)
    slope = np.polyfit(np.log(np.arange(2, 33)), np.log(values[1:32]), 1)[0]
    assert slope == pytest.approx(-1.25, abs=0.05)
    assert centred.std() == pytest.approx(0.8, rel=0.05)


def test_default_is_as_hard_as_the_known_sweep():
    assert markov_process(MarkovConfig()).entropy_rate == pytest.approx(3.887, abs=5e-4)
    harder, easier = (markov_process(MarkovConfig(logit_scale=scale)).entropy_rate for scale in (0.5, 3.0))
    assert easier < 3.887 < harder < np.log(128)


def test_samples_have_the_transitions_the_stationary_distribution_and_the_entropy():
    dataset = MarkovDataset(MarkovConfig(num_symbols=6, sequence_length=20), seed=5)
    tokens = _tokens(dataset, 30_000)
    process = dataset.process
    pairs = np.zeros((6, 6))
    np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    visits = pairs.sum(axis=1, keepdims=True)
    deviation = np.sqrt(process.transitions * (1 - process.transitions) / visits)
    assert (np.abs(pairs / visits - process.transitions) < 5 * deviation).all()
    for column in (0, 1, 10, 20):  # stationary from the first symbol on
        counts = np.bincount(tokens[:, column], minlength=6)
        deviation = np.sqrt(process.stationary * (1 - process.stationary) / len(tokens))
        assert (np.abs(counts / len(tokens) - process.stationary) < 5 * deviation).all()
    plug_in = -(pairs * np.log(pairs / visits)).sum() / pairs.sum()
    assert dataset.exact_entropy == pytest.approx(plug_in, abs=0.003)


def test_each_symbol_owns_as_many_uniform_integers_as_its_probability_says():
    dataset = MarkovDataset(MarkovConfig(num_symbols=5, logit_scale=4.0), seed=0)
    process, table = dataset.process, dataset._table
    for state, row in enumerate([*process.transitions, process.stationary]):
        edges = np.rint(np.cumsum(row) * 2**32).astype(np.int64)
        for symbol, (low, high) in enumerate(zip([0, *edges], edges, strict=False)):
            if state == 5:  # the stationary distribution is rounded to the grid
                low, high = low + 10, high - 10
            drawn = draw(table, 5, np.array([state, state]), np.array([low, high - 1]))
            assert drawn.tolist() == [symbol, symbol]


def test_batches():
    dataset = MarkovDataset(MarkovConfig(sequence_length=5), seed=1)
    batch = dataset.training_batch(2, 3)
    assert batch["decoder_input_tokens"].shape == (3, 5)
    np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], batch["decoder_target_tokens"][:, :-1])
    assert (batch["decoder_segment_ids"] == 1).all()
    assert (batch["decoder_positions"] == np.arange(5)).all()
    assert "decoder_target_distribution" not in batch
    assert (dataset.vocab_size, dataset.sequence_length, dataset.tokenizer, dataset.unique_tokens) == (
        128,
        5,
        None,
        None,
    )


def test_eval_batches_carry_the_true_distribution():
    dataset = MarkovDataset(MarkovConfig(num_symbols=9, sequence_length=16), seed=1)
    batches = list(dataset.eval_batches(400, 40_000))
    assert len(batches) == 7  # 2,500 rows
    truth = np.concatenate([batch["decoder_target_distribution"] for batch in batches])
    assert truth.dtype == np.float32
    assert truth.shape == (2800, 16, 9)
    np.testing.assert_allclose(truth.sum(axis=-1), 1.0, atol=1e-6)
    inputs, weights, targets = (
        np.concatenate([batch[f"decoder_{name}"] for batch in batches])
        for name in ("input_tokens", "loss_weights", "target_tokens")
    )
    assert weights.sum() == 40_000
    for symbol in range(9):
        np.testing.assert_array_equal(
            truth[inputs == symbol],
            np.float32(dataset.process.transitions[[symbol]]).repeat((inputs == symbol).sum(), 0),
        )
    losses = -np.log(np.take_along_axis(truth, targets[..., None], axis=-1)[..., 0])
    assert (losses * weights).sum() / weights.sum() == pytest.approx(dataset.exact_entropy, abs=0.03)


def test_streams_differ_where_they_should():
    def first(seed=0, **config):
        return MarkovDataset(MarkovConfig(**config), seed)

    same, again, other = first(seed=1), first(seed=1), first(seed=2)
    np.testing.assert_array_equal(_tokens(same, 50), _tokens(again, 50))
    assert (_tokens(same, 50) != _tokens(other, 50)).mean() > 0.9
    held_out = next(same.eval_batches(50, 800))["decoder_input_tokens"]
    np.testing.assert_array_equal(held_out, next(other.eval_batches(50, 800))["decoder_input_tokens"])
    for seed in range(4):
        assert (held_out != _tokens(first(seed=seed), 50)[:, :-1]).mean() > 0.9
    chains = [first(), first(process_seed=1), first(logit_scale=1.0), first(spectrum_exponent=1.0)]
    assert len({chain.fingerprint for chain in chains}) == 4
    assert len({chain.exact_entropy for chain in chains}) == 4
    assert first(sequence_length=3).fingerprint == first(seed=9).fingerprint


def test_windows_own_separate_randomness():
    """Counter ranges that overlapped would repeat uniform numbers from one window to the next."""
    tokens = _tokens(MarkovDataset(MarkovConfig(sequence_length=9), seed=0), 2000)
    assert len({tuple(row) for row in tokens.tolist()}) == 2000
    first, second = tokens[:-1, 5], tokens[1:, 1]
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0, abs=0.12)


def test_config_refuses():
    for field, value in {"num_symbols": 1, "logit_scale": 0.0, "sequence_length": 0}.items():
        with pytest.raises(FieldError):
            MarkovConfig(**{field: value})
