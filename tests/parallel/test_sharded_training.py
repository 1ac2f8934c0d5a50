# SPDX-License-Identifier: Apache-2.0
"""What meshes share besides equal numbers: initial bits and checkpoints; and what they cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.training import loop
from t5x_like.training.checkpoints import Checkpoints, load_trained
from t5x_like.training.evaluation import evaluate
from t5x_like.training.program import program_for

STEPS = 3
KEY = jax.random.key(3)
TINY = ("model.num_layers=4", "model.d_model=16", "training.microbatches=2", "training.batch_size=16")
MESHES = [
    {"fsdp": 8},
    {"data": 2, "seq": 2, "tensor": 2},
    {"pipe": 2, "fsdp": 2, "tensor": 2},
    {"pipe": 2, "data": 2},
]


def batches(steps=STEPS):
    generator = np.random.default_rng(0)
    shape = (steps, 16, 8)
    return {
        "decoder_input_tokens": generator.integers(0, 16, shape),
        "decoder_target_tokens": generator.integers(0, 16, shape),
        "decoder_loss_weights": generator.random(shape).astype(np.float32),
    }


@pytest.fixture(scope="module")
def program_on(make_run):
    """Builds the program of a tiny run on a mesh."""

    def build(mesh, *overrides):
        return program_for(make_run(*TINY, *(f"mesh.{axis}={size}" for axis, size in mesh.items()), *overrides))

    return build


def train(program, state, steps=STEPS):
    """Trains some steps, one call each; returns the state and the losses."""
    losses = []
    for i in range(steps):
        batch = {name: value[i : i + 1] for name, value in batches().items()}
        knobs = program.knobs(np.full(1, 1e-2, np.float32), jax.random.key(1))
        state, sums = program.step(state, program.on_devices(batch, leading=1), knobs)
        losses.append(float(sums["loss"][0][0] / sums["loss"][1][0]))
    return state, losses


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_initial_values_are_the_same_bits_on_every_mesh(mesh, program_on):
    expected = program_on({}).init(KEY).trainable
    program = program_on(mesh, *(["execution.pipeline_rounds=2"] if mesh == MESHES[-1] else []))
    state = program.to_disk(program.init(KEY))
    for got, want in zip(jax.tree.leaves(state.trainable), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_checkpoint_of_any_mesh_goes_on_on_any_other(program_on, tmp_path):
    """Saved on a circular pipeline, restored with fsdp, seq and tensor, saved there, restored on one device."""
    whole, expected = train(program_on({}), program_on({}).init(KEY), 1)
    _, rest = train(program_on({}), whole, 1)
    tracks = [
        ({"pipe": 2, "data": 2}, ("execution.pipeline_rounds=2",)),
        ({"fsdp": 2, "seq": 2, "tensor": 2}, ()),
        ({}, ()),
    ]
    for number, (mesh, overrides) in enumerate(tracks):
        program = program_on(mesh, *overrides)
        if number == 0:
            state, losses = train(program, program.init(KEY), 1)
            np.testing.assert_allclose(losses, expected, rtol=1e-6)
        else:
            checkpoints = Checkpoints(tmp_path / str(number - 1))
            state = program.to_memory(checkpoints.restore(program.abstract_state)[0])
            checkpoints.close()
        checkpoints = Checkpoints(tmp_path / str(number))
        checkpoints.save(program.to_disk(state), 1, {})
        checkpoints.wait()
        checkpoints.close()
        _, losses = train(program, state, 1)
        np.testing.assert_allclose(losses, rest, rtol=2e-6, err_msg=str(mesh))


def test_a_circular_run_is_scored_on_one_device(make_run, tmp_path):
    config = make_run(*TINY, "mesh.pipe=2", "execution.pipeline_rounds=2", "execution.remat=auto", "training.steps=2")
    summary = loop.train(config, tmp_path / "run")
    config, program, params = load_trained(tmp_path / "run")
    found = evaluate(program, params, build_dataset(config.data, config.seed), config)
    assert found["loss"] == pytest.approx(summary["loss"], rel=1e-6)


def test_state_is_really_cut_under_fsdp(program_on):
    """Each device holds an eighth of every matrix and of both of its moments, before and after a step."""
    program = program_on({"fsdp": 8})
    fresh = program.init(KEY)
    here = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(fresh))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(fresh))
    assert here < 0.14 * whole
    before = [leaf.sharding for leaf in jax.tree.leaves(fresh)]
    state, _ = train(program, fresh, 1)
    for leaf, sharding in zip(jax.tree.leaves(state), before, strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    kernel = state.trainable["decoder"]["layers"]["0"]["mlp"]["up"]["kernel"]
    assert len({shard.device for shard in kernel.addressable_shards}) == 8
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, kernel.shape[1] // 8, kernel.shape[2])}
    batch = program.on_devices(batches(), leading=1)
    assert {shard.data.shape for shard in batch["decoder_input_tokens"].addressable_shards} == {(STEPS, 2, 8)}


def test_bfloat16_trains_on_eight_devices(program_on):
    expected = train(program_on({}), program_on({}).init(KEY))[1]
    program = program_on({"pipe": 2, "fsdp": 2, "tensor": 2}, "precision=bf16")
    state, losses = train(program, program.init(KEY))
    # 8 bits of mantissa: losses of a fresh model within a percent of float32's
    np.testing.assert_allclose(losses, expected, rtol=1e-2)
    assert all(leaf.dtype == jnp.float32 and np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trainable))
