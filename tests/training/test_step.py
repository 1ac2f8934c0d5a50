# SPDX-License-Identifier: Apache-2.0
"""One step: accumulation, several steps in one call, and what it reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.errors import UserError
from t5x_like.objectives.cross_entropy import TokenCrossEntropy
from t5x_like.training.program import Program, program_config, program_for
from t5x_like.training.state import LossScale, init_state, merge, part_of
from t5x_like.training.step import make_step

K, B, T, V = 3, 8, 8, 16


def batches():
    generator = np.random.default_rng(0)
    shape = (K, B, T)
    weights = generator.random(shape) * generator.integers(0, 2, shape)
    weights[:, ::2] = 0.0  # of four microbatches, two have no weight at all,
    weights[:, 1::4] *= 1e-3  # and one has hardly any
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


@pytest.mark.parametrize("microbatches", [1, 2, 4, 8])
def test_the_gradient_is_that_of_the_weighted_mean(microbatches, program, relative_error):
    """Against the textbook loss of the whole batch, differentiated; the optimizer's state is the gradient it got."""
    program = program()
    remember = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), lambda gradient, state, params: (gradient, gradient)
    )
    params = program.model.init(jax.random.key(0))
    batch = {name: value[:1] for name, value in batches().items()}
    knobs = {"learning_rate": jnp.ones(1), "count": jnp.int32(1), "key": jax.random.key(9)}
    step = make_step(program.model, program.objective, remember, program.ctx, microbatches)
    state, sums = jax.jit(step)(init_state(params, remember), batch, knobs)

    def mean(params):
        one = {name: value[0] for name, value in batch.items()}
        log_p = jax.nn.log_softmax(program.model.apply(params, one)["logits"])
        losses = -jnp.take_along_axis(log_p, one["decoder_target_tokens"][..., None], axis=-1)[..., 0]
        return (losses * one["decoder_loss_weights"]).sum() / one["decoder_loss_weights"].sum()

    loss, gradient = jax.jit(jax.value_and_grad(mean))(params)
    assert relative_error(state.opt, gradient) < 1e-5
    np.testing.assert_allclose(sums["loss"][0] / sums["loss"][1], [loss], rtol=1e-5)
    np.testing.assert_allclose(sums["grad_norm"][0], [optax.global_norm(gradient)], rtol=1e-5)


def test_what_a_step_reports(program):
    program = program()
    before = program.init(jax.random.key(0))
    initial = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), before.trainable)
    after, sums = run(program, [1], before)

    def norm(tree):
        return np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))

    weights = batches()["decoder_loss_weights"][0]
    assert set(sums) == {"loss", "accuracy", "grad_norm", "update_norm", "param_norm"}
    np.testing.assert_allclose(sums["loss"][1], weights.sum(), rtol=1e-6)
    np.testing.assert_allclose(sums["param_norm"][0], norm(initial), rtol=1e-5)
    added = jax.tree.map(lambda new, old: np.asarray(new, np.float64) - old, after.trainable, initial)
    np.testing.assert_allclose(sums["update_norm"][0], norm(added), rtol=1e-4)
    assert sums["param_norm"][1] == sums["grad_norm"][1] == sums["update_norm"][1] == 1


def test_a_step_whose_gradient_overflows_is_skipped(make_run):
    """In float16 and in a whole model: the loss is finite, its gradient is not."""
    program = program_for(
        make_run("execution.steps_per_call=3", "precision=fp16", "training.ema_decay=0.9", "training.microbatches=2")
    )
    before = program.init(jax.random.key(0)).replace(
        loss_scale=LossScale(jnp.float32(2.0**24), jnp.asarray(7, jnp.int32))
    )
    kept = jax.tree.map(np.asarray, before)
    after, sums = run(program, [1], before)
    for name in ("trainable", "opt", "average"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(kept, name))
    assert (after.step, after.loss_scale.value, after.loss_scale.quiet_steps) == (1, 2.0**23, 0)
    assert np.isfinite(sums["loss"][0]).all()
    assert (sums["skipped"], sums["loss_scale"]) == (([1], [1]), ([2.0**24], [1]))
    assert sums["grad_norm"] == sums["update_norm"] == ([0], [0])
    after, sums = run(program, [3], after.replace(loss_scale=LossScale.start(program.ctx.policy.loss_scaling)))
    assert not sums["skipped"][0].any() and after.loss_scale.quiet_steps == 3
    assert (sums["grad_norm"][0] > 0).all()
    for leaf, old in zip(jax.tree.leaves(after.trainable), jax.tree.leaves(kept.trainable), strict=True):
        assert np.abs(np.asarray(leaf) - old).max() > 1e-3


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

    class Contrastive(TokenCrossEntropy):
        separable = False

    objective = Contrastive(program.objective.config)
    make_step(program.model, objective, program.optimizer, program.ctx, 1)
    with pytest.raises(UserError, match=r"^training\.microbatches: 2, but the loss of objective causal_lm is not"):
        make_step(program.model, objective, program.optimizer, program.ctx, 2)


def test_frozen_and_trainable_parameters_join():
    assert merge({"a": {"b": 1}}, {"a": {"c": 2}, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    assert part_of(tree, {"a": {"c": 5}, "d": 6}) == {"a": {"c": 2}, "d": 3}
    assert part_of(tree, {}) == {}


def test_frozen_parameters_are_placed_read_and_left_alone(make_run):
    """Half of them frozen, on a mesh."""

    class Halved(Program):
        """Trains the decoder alone."""

        def _new_state(self, key):
            whole = super()._new_state(key)
            decoder = {"decoder": whole.trainable["decoder"]}
            rest = {name: value for name, value in whole.trainable.items() if name != "decoder"}
            return whole.replace(trainable=decoder, frozen=rest, average=decoder, opt=self.optimizer.init(decoder))

    config = make_run("mesh.fsdp=2", "mesh.tensor=2", "execution.steps_per_call=3", "training.ema_decay=0.9")
    program = Halved(program_config(config))
    program.optimizer = optax.scale_by_adam()
    before = program.init(jax.random.key(0))
    held_out = {name: value[0] for name, value in batches().items()}
    losses = [program.evaluate(program.params(before), program.on_devices(held_out))["loss"][0].sum()]
    table = before.frozen["token_embedding"]["embedding"]
    assert {shard.data.shape for shard in table.addressable_shards} == {(V // 2, 8)}
    frozen = jax.tree.map(np.asarray, before.frozen)
    after, _ = run(program, [3], before)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, after.frozen), frozen)
    for average in (True, False):
        params = program.params(after, average=average)
        jax.tree.map(
            np.testing.assert_array_equal,
            params,
            {**after.frozen, **(after.average if average else after.trainable)},
        )
        losses.append(program.evaluate(params, program.on_devices(held_out))["loss"][0].sum())
    assert len({float(loss) for loss in losses}) == 3
