# SPDX-License-Identifier: Apache-2.0
"""A run that dies goes on from its checkpoint as if it had not, bit for bit, whatever its optimizer and precision;
and on another mesh with the same losses."""

import json

import jax
import numpy as np
import pytest

from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.progress import Silent

RUN = [
    "training.steps=8", "training.batch_size=8", "training.log_every=1", "training.checkpoint_every=4",
    "execution.steps_per_call=2", "training.eval_tokens=64", "model.num_layers=1", "model.d_model=8",
    "model.num_heads=2", "model.tie_embeddings=false", "optimizer.weight_decay=0.1", "schedule.kind=constant",
]  # fmt: skip
OPTIMIZERS = {
    "adamw": ["optimizer.learning_rate=0.02"],
    "adamw, eight bits": ["optimizer.learning_rate=0.005", "optimizer.eight_bit=true", "model.d_model=64"],
    "adafactor": ["optimizer.learning_rate=0.05", "optimizer.b1=0.9"],
    "lion": ["optimizer.learning_rate=0.003"],
    "muon": ["optimizer.learning_rate=0.02"],
    "sgd": ["optimizer.learning_rate=0.5", "optimizer.nesterov=true"],
}
# The default run takes Muon, whose state is in two parts, and codes with scales; `test_training_loop.py` has AdamW, and
# `test_optimizers.py` every optimizer's state through a checkpoint and onto another mesh.
OFTEN = [("muon", "f32"), ("adamw, eight bits", "f32")]
CASES = [
    pytest.param(kind, precision, marks=() if (kind, precision) in OFTEN else pytest.mark.slow)
    for kind in OPTIMIZERS
    for precision in ("f32", "bf16", "fp16")
]


class Dies(Silent):
    def update(self, step, loss, tokens_per_second):
        if step >= 6:
            raise ConnectionError("the machine is gone")


def build(make_run, kind, precision, *overrides):
    named = f"optimizer.kind={kind.split(',')[0]}"
    return make_run(named, f"precision={precision}", *RUN, *OPTIMIZERS[kind], *overrides)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([(line["step"], line["loss"]) for line in lines if line["split"] == "train"])


def final_state(config, folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        state, _ = checkpoints.restore(program_for(config).abstract_state)
    finally:
        checkpoints.close()
    return jax.tree.map(np.asarray, state)


def broken_off(config, folder):
    """A run that has died after its checkpoint of step 4."""
    with pytest.raises(ConnectionError):
        train(config, folder, reporter=Dies())
    assert not (folder / "summary.json").exists()
    assert sorted(entry.name for entry in (folder / "checkpoints").iterdir() if entry.name.isdigit()) == ["4"]
    return folder


def test_layers_thaw_on_time_after_a_break(make_run, tmp_path):
    config = build(make_run, "adamw", "f32", "model.num_layers=3", "optimizer.unfreeze_steps=2")
    train(config, tmp_path / "unbroken")
    train(config, broken_off(config, tmp_path / "resumed"))
    (state, expected) = (final_state(config, tmp_path / name) for name in ("resumed", "unbroken"))
    jax.tree.map(np.testing.assert_array_equal, state, expected)


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_resumed_is_uninterrupted(kind, precision, make_run, tmp_path):
    config = build(make_run, kind, precision)
    train(config, tmp_path / "unbroken")
    train(config, broken_off(config, tmp_path / "resumed"))
    (state, expected) = (final_state(config, tmp_path / name) for name in ("resumed", "unbroken"))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert int(state.step) == 8
    np.testing.assert_array_equal(losses(tmp_path / "resumed"), losses(tmp_path / "unbroken"))
    moments = [leaf for leaf in jax.tree.leaves(state.opt) if leaf.ndim]
    assert moments and all(np.abs(leaf).max() > 0 for leaf in moments)  # every moment was at work
    fall = losses(tmp_path / "resumed")[:, 1]
    assert np.isfinite(fall).all() and fall[-1] < fall[0]

    if precision == "f32":
        check_another_mesh(kind, config, make_run, tmp_path, expected)


def check_another_mesh(kind, config, make_run, tmp_path, expected):
    """Restored onto eight devices: every moment lies where it does in a new run there, and the losses go on."""
    other = build(make_run, kind, "f32", "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")
    folder = broken_off(config, tmp_path / "moved")
    checkpoints = Checkpoints(folder / "checkpoints")
    state, _ = checkpoints.restore(program_for(other).abstract_state)
    checkpoints.close()
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(program_for(other).state_shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    train(other, folder)
    np.testing.assert_allclose(losses(folder), losses(tmp_path / "unbroken"), rtol=1e-5)
    got = final_state(config, folder)
    for leaf, wanted in zip(jax.tree.leaves(got.trainable), jax.tree.leaves(expected.trainable), strict=True):
        assert np.linalg.norm(leaf - wanted) <= 1e-4 * np.linalg.norm(wanted)
