# SPDX-License-Identifier: Apache-2.0
"""One step: accumulation, several steps in one call, and what it reports."""

import jax
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.training.program import Program, program_for
from t5x_like.training.state import merge
from t5x_like.training.step import make_step

K, B, T, V = 3, 8, 8, 16


def batches():
    generator = np.random.default_rng(0)
    shape = (K, B, T)
    weights = generator.random(shape) * generator.integers(0, 2, shape)
    weights[:, ::2] = 0.0  # of four microbatches, two have no weight at all
    return {
        "decoder_input_tokens": generator.integers(0, V, shape),
        "decoder_target_tokens": generator.integers(0, V, shape),
        "decoder_loss_weights": weights.astype(np.float32),
    }


@pytest.fixture(scope="module")
def program(make_run):
    def build(*overrides) -> Program:
        return program_for(
            make_run("execution.steps_per_call=3", "optimizer.kind=adamw", "optimizer.b1=0.5", *overrides)
        )

    return build


def run(program, sizes, state=None):
    """Takes the three steps in calls of these sizes; returns the state and every step's sums."""
    state = state or program.init(jax.random.key(0))
    rates = np.array([0.01, 0.02, 0.005], np.float32)
    done, all_sums = 0, []
    for size in sizes:
        part = {name: np.roll(value, -done, axis=0) for name, value in batches().items()}
        knobs = program.knobs(rates[done : done + size], jax.random.key(9))
        state, sums = program.step(state, program.on_devices(part, leading=1), knobs)
        all_sums.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], sums))
        done += size
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *all_sums)


def test_three_steps_in_one_call_are_three_calls(program):
    """With dropout, whose draws are folded from the number of the step: bit for bit."""
    program = program("model.dropout_rate=0.3")
    together, sums = run(program, [3])
    for sizes in ([1, 1, 1], [2, 1]):
        apart, more = run(program, sizes)
        for got, expected in zip(jax.tree.leaves((apart, more)), jax.tree.leaves((together, sums)), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert int(together.step) == 3
    assert len(np.unique(sums["loss"][0])) == 3


def test_accumulation_is_one_batch(program, relative_error):
    """Ragged weights, two of the four parts without any: a mean over microbatches of their means would be wrong.

    Adam's epsilon is large here, for else it turns the rounding of a gradient near 0 into a full step.
    """
    state, sums = run(program("optimizer.epsilon=1e-3"), [3])
    other, more = run(program("optimizer.epsilon=1e-3", "training.microbatches=4"), [3])
    for name, (value, weight) in sums.items():
        np.testing.assert_allclose(more[name][0], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(more[name][1], weight, rtol=1e-6, err_msg=name)
    assert relative_error(other.trainable, state.trainable) < 2e-6


def test_what_a_step_reports(program):
    program = program()
    before = program.init(jax.random.key(0))
    norm = np.sqrt(sum((np.asarray(leaf, np.float64) ** 2).sum() for leaf in jax.tree.leaves(before.trainable)))
    _, sums = run(program, [1], before)
    weights = batches()["decoder_loss_weights"][0]
    assert set(sums) == {"loss", "accuracy", "grad_norm", "param_norm"}
    np.testing.assert_allclose(sums["loss"][1], weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums["param_norm"][0], norm, rtol=1e-5)
    assert sums["param_norm"][1] == sums["grad_norm"][1] == 1


def test_a_batch_without_weight_moves_nothing_but_the_count(program):
    program = program()
    before = program.init(jax.random.key(0))
    kept = jax.tree.map(np.asarray, before.trainable)
    batch = batches() | {"decoder_loss_weights": np.zeros((K, B, T), np.float32)}
    knobs = program.knobs(np.full(1, 0.1, np.float32), jax.random.key(9))
    after, sums = program.step(before, program.on_devices(batch, leading=1), knobs)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, after.trainable), kept)
    assert int(after.step) == 1
    assert sums["loss"][1][0] == sums["grad_norm"][0][0] == 0


def test_runs_that_differ_in_numbers_alone_share_a_program(make_run):
    one = program_for(make_run())
    assert one is program_for(make_run("seed=4", "training.steps=9", "schedule.kind=linear", "training.batch_size=16"))
    faster = make_run("optimizer.kind=adamw", "optimizer.learning_rate=0.7")
    assert one is program_for(faster)
    assert one is not program_for(make_run("model.d_model=32"))


def test_microbatches_of_a_loss_that_is_no_sum_are_refused(program):
    program = program()

    class Contrastive(CausalLM):
        separable = False

    objective = Contrastive(program.objective.config)
    make_step(program.model, objective, program.optimizer, program.ctx, 1)
    with pytest.raises(UserError, match=r"^training\.microbatches: 2, but the loss of objective causal_lm is not"):
        make_step(program.model, objective, program.optimizer, program.ctx, 2)


def test_frozen_and_trainable_parameters_join():
    assert merge({"a": {"b": 1}}, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
