# SPDX-License-Identifier: Apache-2.0
"""The held-out loss and its standard error against brute force; padding and batch sizes change nothing."""

import jax
import numpy as np
import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.training.evaluation import evaluate
from t5x_like.training.program import program_for


@pytest.fixture(scope="module")
def markov(make_run, redraw):
    """(config, program, params, dataset)"""
    config = make_run("training.eval_tokens=300")  # 38 windows of 8
    program = program_for(config)
    return config, program, redraw(program.specs), build_dataset(config.data, 0)


def test_exact_cross_entropy_of_a_known_process(markov):
    config, program, params, dataset = markov
    result = evaluate(program, params, dataset, config)
    (batch,) = dataset.eval_batches(38, 300)
    logits = np.asarray(jax.jit(program.model.apply)(params, batch)["logits"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    truth = dataset.process.transitions[batch["decoder_input_tokens"]]
    means = (truth * (np.log(truth) - log_p)).sum(-1).mean(1)  # one number a window
    np.testing.assert_allclose(result["loss"], dataset.exact_entropy + means.mean(), rtol=1e-5)
    np.testing.assert_allclose(result["loss_stderr"], means.std(ddof=1) / np.sqrt(38), rtol=1e-4)
    hits = log_p.argmax(-1) == batch["decoder_target_tokens"]
    np.testing.assert_allclose(result["accuracy"], hits.mean(), rtol=1e-6)
    assert result["eval_tokens"] == 38 * 8


def test_the_batch_size_changes_nothing(markov, make_run):
    config, program, params, dataset = markov
    other = make_run("training.eval_tokens=300", "training.batch_size=24")
    first, second = (evaluate(program, params, dataset, c) for c in (config, other))
    assert first["eval_tokens"] == second["eval_tokens"]
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-5)


@pytest.mark.parametrize(("microbatches", "rows"), [(1, 12), (3, 4)])
def test_no_more_rows_at_once_than_a_microbatch_has(microbatches, rows, markov, make_run, monkeypatch):
    """Where a microbatch is itself enough for one call."""
    _, program, params, dataset = markov
    config = make_run("training.batch_size=12", f"training.microbatches={microbatches}")
    monkeypatch.setattr("t5x_like.training.evaluation.TOKENS_PER_CALL", 16)
    seen = []
    batches = dataset.eval_batches
    monkeypatch.setattr(dataset, "eval_batches", lambda size, *rest, **hosts: seen.append(size) or batches(size, *rest))
    evaluate(program, params, dataset, config)
    assert seen == [rows]


class Ragged:
    """Held-out rows of unequal weights, some of none, in two batches."""

    sequence_length = row_size = 8
    exact_entropy, held_out_bytes_per_token = None, 2.5

    def __init__(self):
        generator = np.random.default_rng(0)
        weights = generator.random((24, 8)) * (np.arange(8) < generator.integers(1, 9, (24, 1)))
        weights[[3, 17, 22, 23]] = 0.0
        self.batches = [
            {
                "decoder_input_tokens": generator.integers(0, 16, (12, 8)),
                "decoder_target_tokens": generator.integers(0, 16, (12, 8)),
                "decoder_loss_weights": part.astype(np.float32),
            }
            for part in np.split(weights, 2)
        ]

    def eval_batches(self, batch_size, num_tokens, *, host_index, host_count):
        assert (host_index, host_count) == (0, 1)
        assert batch_size % 8 == 0
        assert num_tokens == 300
        return iter(self.batches)


def test_standard_error_of_ragged_rows(markov):
    """The ratio estimator of survey sampling (Cochran 1977, section 6.4); rows without weight do not count as rows."""
    config, program, params, _ = markov
    dataset = Ragged()
    result = evaluate(program, params, dataset, config)
    sums, weights = [], []
    for batch in dataset.batches:
        logits = np.asarray(jax.jit(program.model.apply)(params, batch)["logits"], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for row, targets in enumerate(batch["decoder_target_tokens"]):
            weight = batch["decoder_loss_weights"][row].astype(float)
            if weight.sum():
                sums.append(-(log_p[row, np.arange(8), targets] * weight).sum())
                weights.append(weight.sum())
    assert len(sums) == 20
    mean = sum(sums) / sum(weights)
    residuals = [s - mean * w for s, w in zip(sums, weights, strict=True)]
    stderr = np.sqrt(sum(r * r for r in residuals) / 19 * 20) / sum(weights)
    np.testing.assert_allclose(result["loss"], mean, rtol=1e-5)
    np.testing.assert_allclose(result["loss_stderr"], stderr, rtol=1e-4)
    np.testing.assert_allclose(result["bits_per_byte"], mean / np.log(2) / 2.5, rtol=1e-5)
    np.testing.assert_allclose(result["eval_tokens"], sum(weights), rtol=1e-6)
