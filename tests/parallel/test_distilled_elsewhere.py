# SPDX-License-Identifier: Apache-2.0
"""An encoder-decoder and an encoder learn from their teachers on eight devices as on one: all four losses."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_like.config import TeacherConfig
from t5x_like.training.program import Program, program_config

B = 16
SIZES = (
    "model.num_layers=2", "model.d_model=32", "model.num_heads=8", "model.mlp_dim=48", "model.dropout_rate=0.2",
    "model.vocab_size=272", "training.batch_size=16", "training.microbatches=2", "data.sequence_length=16",
    "data.tokenizer.kind=byte", "mesh.max_uncut=0.1", "optimizer.kind=sgd", "optimizer.learning_rate=0.1",
)  # fmt: skip
KINDS = {
    "t5": ("data.kind=seq2seq", "data.encoder_length=24", "model.kind=t5", "objective.kind=seq2seq"),
    "bert": (
        "data.kind=masked_lm", "model.kind=bert", "objective.kind=masked_lm", "model.pooler=false",
        "model.next_sentence=false", "data.tokenizer.specials=['mask','cls','sep']",
    ),
}  # fmt: skip
MESHES = [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 2, "seq": 2, "tensor": 2}]


def batch_of(lengths):
    rng, batch = np.random.default_rng(0), {}
    for stream, length in lengths.items():
        real = np.arange(length) < rng.integers(1, length + 1, (B, 1))
        batch[f"{stream}_input_tokens"] = rng.integers(0, 272, (B, length)) * real
        batch[f"{stream}_segment_ids"] = real.astype(np.int32)
        batch[f"{stream}_target_tokens"] = rng.integers(0, 272, (B, length)) * real
        batch[f"{stream}_loss_weights"] = (rng.random((B, length)) * real).astype(np.float32)
    return {name: value[None] for name, value in batch.items()}


@pytest.mark.parametrize("mesh", [MESHES[0], pytest.param(MESHES[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_one_device(kind, mesh, make_run, redraw, relative_error):
    def step(mesh):
        sizes = [f"mesh.{axis}={size}" for axis, size in mesh.items()]
        config = make_run(*KINDS[kind], *SIZES, *sizes)
        deeper = make_run(*KINDS[kind], *SIZES, "model.num_layers=4").model
        taught = TeacherConfig("there", hidden=1.0, attention=1.0)
        program = Program(dataclasses.replace(program_config(config), teacher=taught, teacher_model=deeper))
        state = program.init(jax.random.key(0)).replace(
            teacher=jax.device_put(redraw(program.teacher_specs), program.teacher_shardings)
        )
        before = jax.device_get(state.trainable)
        knobs = program.knobs(np.full(1, 0.1, np.float32), jax.random.key(1))
        state, sums = program.step(state, program.on_devices(batch_of(config.data.lengths), leading=1), knobs)
        return jax.device_get(sums), jax.tree.map(np.subtract, jax.device_get(state.trainable), before)

    (one, moved), (other, there) = step({}), step(mesh)
    for name in ("loss", "objective", "soft_loss", "hidden_loss", "attention_loss"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-5, err_msg=name)
    flat, same = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (moved, there))
    assert np.abs(flat).max() > 1e-3
    assert relative_error(same, flat) < 1e-4
