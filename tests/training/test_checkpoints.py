# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: strict about names, shapes and dtypes, indifferent to the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.training.checkpoints import Checkpoints, load_trained
from t5x_like.training.program import program_for
from t5x_like.training.run_folder import open_folder
from t5x_like.training.state import LossScale


@pytest.fixture(scope="module")
def saved(make_run, tmp_path_factory):
    """(folder, the state in it), as one device holds it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    state = program_for(make_run()).init(jax.random.key(0))
    state = state.replace(step=jnp.asarray(5, jnp.int32))
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest is None
    checkpoints.save(state, 5, {"step": 5, "interval": {"loss": [1.5, 2.0]}})
    checkpoints.close()
    return folder, jax.tree.map(np.asarray, state)


@pytest.fixture
def reopened(saved):
    checkpoints = Checkpoints(saved[0])
    yield checkpoints
    checkpoints.close()


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 4, "data": 2}], ids=["one device", "fsdp=4 data=2"])
def test_restores_bit_for_bit_onto_any_mesh(mesh, saved, reopened, make_run):
    program = program_for(make_run(*(f"mesh.{axis}={size}" for axis, size in mesh.items())))
    state, tally = reopened.restore(program.abstract_state)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, state), saved[1])
    assert tally == {"step": 5, "interval": {"loss": [1.5, 2.0]}}
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(program.state_shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    params = reopened.restore_params(program.abstract_state)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, params), saved[1].trainable)


def test_another_shape_is_refused(reopened, make_run):
    wider = program_for(make_run("model.mlp_dim=32")).abstract_state
    expected = r"/5: params/trainable/decoder/layers/0/mlp/out/kernel is float32\[2, 64, 16\] in the checkpoint and "
    expected += r"float32\[2, 32, 16\] in this run's config$"
    with pytest.raises(UserError, match=expected):
        reopened.restore(wider)
    with pytest.raises(UserError, match=expected):
        reopened.restore_params(wider)


def test_missing_and_additional_parameters_are_refused(reopened, make_run):
    with pytest.raises(
        UserError, match=r"logits/kernel is absent in the checkpoint and float32\[16, 16\] in this run's"
    ):
        reopened.restore(program_for(make_run("model.tie_embeddings=false")).abstract_state)
    with pytest.raises(
        UserError, match=r"final_norm/scale is float32\[16\] in the checkpoint and absent in this run's"
    ):
        reopened.restore(program_for(make_run("model.norm_position=post")).abstract_state)


def test_another_dtype_is_refused(reopened, make_run):
    """Orbax alone would cast it without a word."""
    abstract = program_for(make_run()).abstract_state

    def half(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding)

    changed = abstract.replace(trainable=jax.tree.map(half, abstract.trainable))
    with pytest.raises(UserError, match=r"is float32\[.*\] in the checkpoint and bfloat16\["):
        reopened.restore(changed)


def test_a_step_already_saved_is_left_alone(saved, reopened, make_run):
    folder, _ = saved
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    reopened.save(program_for(make_run()).init(jax.random.key(1)), 5, {"step": 6})
    reopened.wait()
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_an_empty_folder_holds_no_checkpoint(make_run, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoints.restore_params(program_for(make_run()).abstract_state)
    checkpoints.close()


def steps(program, state, first):
    """Three steps from the numbered one on random tokens; the state and what the steps report."""
    generator = np.random.default_rng(first)
    shape = (3, 8, 8)
    batch = {f"decoder_{name}_tokens": generator.integers(0, 16, shape) for name in ("input", "target")}
    batch["decoder_loss_weights"] = generator.random(shape).astype(np.float32)
    knobs = program.knobs(np.full(3, 1e-2, np.float32), jax.random.key(3))
    state, sums = program.step(state, program.on_devices(batch, leading=1), knobs)
    return state, jax.tree.map(np.asarray, sums)


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_goes_on_bit_for_bit_at_any_precision(precision, make_run, tmp_path):
    """With the loss scale, which has just been halved, and the average of the parameters; then on another mesh."""
    overrides = f"precision={precision}", "training.ema_decay=0.9", "training.microbatches=2"
    program = program_for(make_run("execution.steps_per_call=3", *overrides))
    state = program.init(jax.random.key(0))
    if precision == "fp16":
        state = state.replace(loss_scale=LossScale(jnp.float32(2.0**18), jnp.int32(1)))
    state, _ = steps(program, state, 0)
    state, _ = steps(program, state, 3)
    kept = jax.tree.map(np.asarray, state)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state, 6, {})
    checkpoints.wait()
    expected = jax.tree.map(np.asarray, steps(program, state, 6))
    restored, _ = checkpoints.restore(program.abstract_state)
    got = jax.tree.map(np.asarray, steps(program, restored, 6))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert int(expected[0].step) == 9
    if precision == "fp16":
        assert kept.loss_scale.value in (2.0**15, 2.0**16, 2.0**17)  # it began too large
        assert kept.loss_scale.quiet_steps == 6 - (18 - np.log2(kept.loss_scale.value))
    else:
        assert kept.loss_scale is None
    for average, tree in ((True, kept.average), (False, kept.trainable)):
        params = checkpoints.restore_params(program.abstract_state, average=average)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, params), tree)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), kept.average, kept.trainable)))

    if precision == "fp16":
        mesh = program_for(make_run("execution.steps_per_call=3", *overrides, "mesh.data=2", "mesh.tensor=2"))
        restored, _ = checkpoints.restore(mesh.abstract_state)
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, restored), kept)
        after, sums = steps(mesh, restored, 6)
        np.testing.assert_array_equal(sums["loss_scale"][0], expected[1]["loss_scale"][0])
        np.testing.assert_allclose(sums["loss"][0], expected[1]["loss"][0], rtol=1e-3)
        average, shardings = after.average, mesh.state_shardings.trainable
        for leaf, sharding in zip(jax.tree.leaves(average), jax.tree.leaves(shardings), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    checkpoints.close()


def test_a_checkpoint_without_the_average_that_a_run_keeps_is_refused(reopened, make_run):
    averaging = program_for(make_run("training.ema_decay=0.9")).abstract_state
    with pytest.raises(UserError, match=r"/5: average/.* is absent in the checkpoint and float32"):
        reopened.restore(averaging)


def test_a_model_trained_with_another_machine_s_kernel_is_read_on_this_one(saved, make_run, tmp_path):
    """Nor could generation take a kernel by name on any machine: prompts are no multiple of its blocks."""
    open_folder(tmp_path, make_run("execution.attention=cudnn", "mesh.fsdp=2"))
    (tmp_path / "checkpoints").symlink_to(saved[0])
    _, program, params = load_trained(tmp_path)
    batch = {"decoder_input_tokens": jnp.arange(8)[None]}
    logits = jax.eval_shape(lambda params: program.model.apply(params, batch, ctx=program.ctx)["logits"], params)
    assert logits.shape == (1, 8, 16)
