# SPDX-License-Identifier: Apache-2.0
"""Training on eight devices is training on one: the loss, every gradient and the parameters after three steps.

The batches are packed, with ragged weights and padding; on some meshes dropout and two microbatches are on as well.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.training.program import program_for
from t5x_like.training.state import init_state
from t5x_like.training.step import make_step

BOTH = ("model.dropout_rate=0.2", "training.microbatches=2")
slow = pytest.mark.slow
# What differs between the sizes of one axis is little; the default run takes some of each.
MESHES = [
    pytest.param({"data": 2}, (), marks=slow, id="data=2"),
    pytest.param({"data": 4}, (), marks=slow, id="data=4"),
    pytest.param({"data": 8}, BOTH, id="data=8, dropout, microbatches"),
    pytest.param({"fsdp": 2}, (), marks=slow, id="fsdp=2"),
    pytest.param({"fsdp": 4}, (), marks=slow, id="fsdp=4"),
    pytest.param({"fsdp": 8}, (), id="fsdp=8"),
    pytest.param({"data": 2, "fsdp": 4}, BOTH, id="data=2 fsdp=4, dropout, microbatches"),
    pytest.param({"tensor": 2}, (), marks=slow, id="tensor=2"),
    pytest.param({"fsdp": 2, "tensor": 2}, BOTH, id="fsdp=2 tensor=2, dropout, microbatches"),
    pytest.param({"data": 2, "fsdp": 2, "tensor": 2}, BOTH, marks=slow, id="data=2 fsdp=2 tensor=2"),
    pytest.param(
        {"data": 2, "fsdp": 2},
        ("execution.scan_layers=false", "execution.remat=full"),
        marks=slow,
        id="unrolled, remat",
    ),
]
STEPS, B, T, V = 3, 16, 8, 16


def batches():
    """Three batches [3, B, T] of packed documents; the last rows of each are padding to different extents."""
    generator = np.random.default_rng(0)
    shape = (STEPS, B, T)
    starts = generator.random(shape) < 0.3
    starts[..., 0] = True
    real = np.arange(T) < generator.integers(0, T + 1, (STEPS, B, 1))
    since = np.where(starts, np.arange(T), 0)
    return {
        "decoder_input_tokens": generator.integers(0, V, shape) * real,
        "decoder_target_tokens": generator.integers(0, V, shape) * real,
        "decoder_segment_ids": np.cumsum(starts, axis=-1) * real,
        "decoder_positions": (np.arange(T) - np.maximum.accumulate(since, axis=-1)) * real,
        "decoder_loss_weights": (generator.random(shape) * real).astype(np.float32),
    }


def remembering(optimizer):
    """An optimizer that keeps the gradient it was given in its state."""

    def init(params):
        return jax.tree.map(jnp.zeros_like, params), optimizer.init(params)

    def update(gradient, state, params):
        directions, inner = optimizer.update(gradient, state[1], params)
        return directions, (gradient, inner)

    return optax.GradientTransformation(init, update)


@pytest.fixture(scope="module")
def run(make_run):
    """Returns the program, the loss and gradient of step 1, and the losses and state after step 3."""

    def build(mesh, *overrides):
        program = program_for(
            make_run(
                "training.batch_size=16", "execution.steps_per_call=3", "model.num_kv_heads=2",
                "model.gated_mlp=true", "model.tie_embeddings=false", "model.positions=learned",
                *(f"mesh.{axis}={size}" for axis, size in mesh.items()), *overrides,
            )
        )  # fmt: skip
        optimizer = remembering(program.optimizer)
        params = program.model.init(jax.random.key(0))
        shardings = program.state_shardings
        shardings = shardings.replace(opt=(shardings.trainable, shardings.opt))
        state = jax.device_put(init_state(params, optimizer), shardings)
        step = jax.jit(
            make_step(program.model, program.objective, optimizer, program.ctx, program.microbatches),
            in_shardings=(shardings, program.layout.batch(leading=1), program.layout.replicated),
            out_shardings=(shardings, program.layout.replicated),
        )
        knobs = program.knobs(np.full(STEPS, 1e-2, np.float32), jax.random.key(1))
        batch = program.on_devices(batches(), leading=1)
        after_one, sums = step(state, batch, knobs | {"count": jnp.asarray(np.int32(1))})
        after_three, all_sums = step(state, batch, knobs)
        return program, (sums, after_one.opt[0]), (all_sums, after_three)

    cache = {}

    def once(mesh, *overrides):
        name = (*mesh.items(), *overrides)
        if name not in cache:
            cache[name] = build(mesh, *overrides)
        return cache[name]

    return once


@pytest.mark.parametrize(("mesh", "overrides"), MESHES)
def test_equals_one_device(mesh, overrides, run, relative_error):
    _, (sums, gradient), (all_sums, state) = run(mesh, *overrides)
    how = BOTH if overrides == BOTH else ()
    program, (expected_sums, expected_gradient), (expected_all_sums, expected_state) = run({}, *how)
    for got, expected, steps in ((sums, expected_sums, 1), (all_sums, expected_all_sums, STEPS)):
        for measure, (value, weight) in expected.items():
            assert np.isfinite(value[:steps]).all() and (np.asarray(weight[:steps]) > 0).all()
            np.testing.assert_allclose(got[measure][0][:steps], value[:steps], rtol=1e-5, err_msg=measure)
            np.testing.assert_allclose(got[measure][1][:steps], weight[:steps], rtol=1e-6, err_msg=measure)
    assert relative_error(gradient, expected_gradient) < 1e-5
    assert relative_error(state.trainable, expected_state.trainable) < 1e-5
    initial = program.model.init(jax.random.key(0))
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), state.trainable, initial)
    assert min(jax.tree.leaves(moved)) > 1e-3  # every parameter was trained


@pytest.mark.parametrize("mesh", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_initial_values_are_the_same_bits_on_every_mesh(mesh, make_run):
    key = jax.random.key(3)
    expected = program_for(make_run("model.use_bias=true")).model.init(key)
    state = program_for(make_run("model.use_bias=true", *(f"mesh.{axis}={size}" for axis, size in mesh.items()))).init(
        key
    )
    for got, want in zip(jax.tree.leaves(state.trainable), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)


def test_state_is_really_cut_under_fsdp(run):
    """Each device holds an eighth of every matrix, of its gradient and of both of its moments."""
    program, (_, gradient), (_, state) = run({"fsdp": 8})
    fresh = program.init(jax.random.key(0))

    def pick(tree):
        return tree["decoder"]["layers"]["0"]["mlp"]["up"]["kernel"]

    adam, fresh_adam = (next(part for part in opt if hasattr(part, "mu")) for opt in (state.opt[1], fresh.opt))
    for tree in (fresh.trainable, gradient, state.trainable, adam.mu, adam.nu, fresh_adam.mu, fresh_adam.nu):
        leaf = pick(tree)
        shards = leaf.addressable_shards
        assert len({shard.device for shard in shards}) == 8
        assert {shard.data.shape for shard in shards} == {(2, leaf.shape[1] // 8, leaf.shape[2])}
    bytes_here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(fresh))
    bytes_total = sum(leaf.nbytes for leaf in jax.tree.leaves(fresh))
    assert bytes_here < 0.14 * bytes_total
    batch = program.on_devices(batches(), leading=1)
    assert {shard.data.shape for shard in batch["decoder_input_tokens"].addressable_shards} == {(STEPS, B // 8, T)}


def test_bfloat16_trains_on_eight_devices(run):
    _, _, (sums, state) = run({"data": 2, "fsdp": 2, "tensor": 2}, "precision=bf16")
    _, _, (expected, _) = run({})
    # 8 bits of mantissa: losses of a fresh model within a percent of float32's
    np.testing.assert_allclose(sums["loss"][0], expected["loss"][0], rtol=1e-2)
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trainable))
