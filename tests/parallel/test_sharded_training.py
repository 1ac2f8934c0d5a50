# SPDX-License-Identifier: Apache-2.0
"""Training on eight devices is training on one: the loss, every gradient and the parameters after three steps.

The batch is packed, with ragged weights and padding; dropout and two microbatches are on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.training.program import program_for
from t5x_like.training.step import make_step

MESHES = {
    "data=2": {"data": 2},
    "data=4": {"data": 4},
    "data=8": {"data": 8},
    "fsdp=2": {"fsdp": 2},
    "fsdp=4": {"fsdp": 4},
    "fsdp=8": {"fsdp": 8},
    "data=2 fsdp=4": {"data": 2, "fsdp": 4},
    "tensor=2": {"tensor": 2},
    "fsdp=2 tensor=2": {"fsdp": 2, "tensor": 2},
    "data=2 fsdp=2 tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
}
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


def train(config):
    """Returns the program, its initial state, then the loss and gradient of step 1, then the state after step 3."""
    program = program_for(config)
    optimizer = remembering(program.optimizer)
    initial = program.init(jax.random.key(0))
    shardings = program.state_shardings
    shardings = shardings.replace(opt=(shardings.trainable, shardings.opt))
    state = initial.replace(opt=(jax.tree.map(jnp.zeros_like, initial.trainable), initial.opt))
    state = jax.device_put(state, shardings)
    step = jax.jit(
        make_step(program.model, program.objective, optimizer, program.ctx, program.microbatches),
        in_shardings=(shardings, program.layout.batch(leading=1), program.layout.replicated),
        out_shardings=(shardings, program.layout.replicated),
    )
    rates = np.full(STEPS, 1e-2, np.float32)
    knobs = program.knobs(rates, jax.random.key(1))
    after_one, sums = step(state, program.on_devices(batches(), leading=1), knobs | {"count": jnp.asarray(1)})
    after_three, all_sums = step(state, program.on_devices(batches(), leading=1), knobs)
    return program, initial, (sums, after_one.opt[0]), (all_sums, after_three)


@pytest.fixture(scope="module")
def run(make_run):
    def build(mesh, *overrides):
        return train(
            make_run(
                "training.batch_size=16", "training.microbatches=2", "execution.steps_per_call=3",
                "model.dropout_rate=0.2", "model.num_kv_heads=2", "model.gated_mlp=true", "model.tie_embeddings=false",
                "model.positions=learned", "optimizer.kind=adamw", "optimizer.epsilon=1e-4",
                *(f"mesh.{axis}={size}" for axis, size in mesh.items()), *overrides,
            )
        )  # fmt: skip

    return build


@pytest.fixture(scope="module")
def alone(run):
    return run({})


@pytest.mark.parametrize("name", MESHES)
def test_equals_one_device(name, run, alone, relative_error):
    _, initial, (sums, gradient), (all_sums, state) = run(MESHES[name])
    _, expected_initial, (expected_sums, expected_gradient), (expected_all_sums, expected_state) = alone
    for got, expected in zip(jax.tree.leaves(initial), jax.tree.leaves(expected_initial), strict=True):
        np.testing.assert_array_equal(got, expected)  # the same bits on every mesh
    for got, expected, steps in ((sums, expected_sums, 1), (all_sums, expected_all_sums, STEPS)):
        for measure, (value, weight) in expected.items():
            assert np.isfinite(value[:steps]).all() and (np.asarray(weight[:steps]) > 0).all()
            np.testing.assert_allclose(got[measure][0][:steps], value[:steps], rtol=1e-5, err_msg=measure)
            np.testing.assert_allclose(got[measure][1][:steps], weight[:steps], rtol=1e-6, err_msg=measure)
    assert relative_error(gradient, expected_gradient) < 1e-5
    assert relative_error(state.trainable, expected_state.trainable) < 1e-5
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), state.trainable, initial.trainable)
    assert min(jax.tree.leaves(moved)) > 1e-3  # every parameter was trained


def test_state_is_really_cut_under_fsdp(run):
    """Each device holds an eighth of every matrix, of its gradient and of both of its moments."""
    program, initial, (_, gradient), (_, state) = run(MESHES["fsdp=8"])
    kernel = ("decoder", "layers", "0", "mlp", "up", "kernel")

    def pick(tree):
        for name in kernel:
            tree = tree[name]
        return tree

    adam = next(part for part in state.opt[1] if hasattr(part, "mu"))
    for tree in (initial.trainable, gradient, state.trainable, adam.mu, adam.nu):
        leaf = pick(tree)
        shards = leaf.addressable_shards
        assert len({shard.device for shard in shards}) == 8
        assert {shard.data.shape for shard in shards} == {(2, leaf.shape[1] // 8, leaf.shape[2])}
    bytes_here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    bytes_total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert bytes_here < 0.14 * bytes_total
    batch = program.on_devices(batches(), leading=1)
    assert {shard.data.shape for shard in batch["decoder_input_tokens"].addressable_shards} == {(STEPS, B // 8, T)}


def test_bfloat16_trains_on_eight_devices(run):
    _, _, _, (sums, state) = run({"data": 2, "fsdp": 2, "tensor": 2}, "precision=bf16")
    assert np.isfinite(np.asarray(sums["loss"][0])).all()
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trainable))


def test_how_a_step_is_carried_out_does_not_matter_on_a_mesh_either(run, alone, relative_error):
    _, _, (_, gradient), _ = run({"data": 2, "fsdp": 2}, "execution.scan_layers=false", "execution.remat=full")
    assert relative_error(gradient, alone[2][1]) < 1e-5
