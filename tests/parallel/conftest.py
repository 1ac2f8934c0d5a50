# SPDX-License-Identifier: Apache-2.0
"""One device against many: the same three steps of a tiny model on a mesh, with everything that could differ on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.training.program import Program, program_config
from t5x_like.training.state import init_state

STEPS, B, T, V = 3, 16, 16, 16
# Eight of everything that a mesh of eight may cut; dropout, packed batches and accumulation always.
MODEL = (
    "data.sequence_length=16", "model.num_layers=8", "model.d_model=32", "model.num_heads=16", "model.num_kv_heads=8",
    "model.head_dim=2", "model.mlp_dim=48", "model.gated_mlp=true", "model.tie_embeddings=false",
    "model.positions=learned", "model.dropout_rate=0.2", "training.batch_size=16", "execution.steps_per_call=3",
)  # fmt: skip


@dataclasses.dataclass
class Outcome:
    """What training gave on one mesh, all on the host."""

    program: Program
    first: dict[str, Any]  # sums of step 1
    gradient: Any  # of step 1
    sums: dict[str, Any]  # of three steps of SGD with momentum
    trained: Any  # parameters after them, as saved
    adamw: dict[str, Any]  # sums of three steps of AdamW


def packed_batches(lengths):
    """Three batches [3, B, T] of packed documents; the last rows of each are padding to different extents."""
    generator = np.random.default_rng(0)
    batch = {}
    for stream, length in lengths.items():
        shape = (STEPS, B, length)
        starts = generator.random(shape) < 0.3
        starts[..., 0] = True
        real = np.arange(length) < generator.integers(0, length + 1, (STEPS, B, 1))
        since = np.where(starts, np.arange(length), 0)
        batch |= {
            f"{stream}_input_tokens": generator.integers(0, V, shape) * real,
            f"{stream}_target_tokens": generator.integers(0, V, shape) * real,
            f"{stream}_segment_ids": np.cumsum(starts, axis=-1) * real,
            f"{stream}_positions": (np.arange(length) - np.maximum.accumulate(since, axis=-1)) * real,
            f"{stream}_loss_weights": (generator.random(shape) * real).astype(np.float32),
        }
    if "decoder" in lengths:  # whose targets count
        batch = {name: value for name, value in batch.items() if not name.startswith(("encoder_t", "encoder_l"))}
    return batch


def either(first, second):
    """Two optimizers in one program: a number in the state says whose directions are taken. Keeps the gradient too."""

    def init(params):
        return jnp.zeros(()), jax.tree.map(jnp.zeros_like, params), (first.init(params), second.init(params))

    def update(gradient, state, params):
        a, one = first.update(gradient, state[2][0], params)
        b, two = second.update(gradient, state[2][1], params)
        directions = jax.tree.map(lambda x, y: jnp.where(state[0] > 0, y, x), a, b)
        return directions, (state[0], gradient, (one, two))

    return optax.GradientTransformation(init, update)


@pytest.fixture(scope="session")
def three_steps(make_run):
    """Returns a function of (mesh, overrides) that trains three steps there, once."""
    # Optax's own, without what ours add by parameter: a third less to compile, for every mesh.
    optimizer = either(optax.trace(0.9), optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1)))
    cache: dict[Any, Outcome] = {}

    def build(mesh, overrides):
        sizes = tuple(f"mesh.{axis}={size}" for axis, size in mesh.items())
        model = () if any(field.startswith("model.kind=") for field in overrides) else MODEL
        config = make_run(*model, *overrides, *sizes)
        program = Program(program_config(config))
        program.optimizer = optimizer
        state = jax.device_get(init_state(program.model.init(jax.random.key(0)), program.optimizer))
        knobs = program.knobs(np.full(STEPS, 2e-3, np.float32), jax.random.key(1))
        batch = program.on_devices(packed_batches(dict(sorted(config.data.lengths.items()))), leading=1)

        def steps(count, second):
            start = state.replace(opt=(np.float32(second), *state.opt[1:]))
            start = program.to_memory(jax.device_put(start, program.state_shardings))
            after, sums = program.step(start, batch, knobs | {"count": jnp.asarray(np.int32(count))})
            return jax.device_get(program.to_disk(after)), jax.device_get(sums)

        after_one, first = steps(1, 0.0)
        after_three, sums = steps(STEPS, 0.0)
        return Outcome(program, first, after_one.opt[1], sums, after_three.trainable, steps(STEPS, 1.0)[1])

    def run(mesh, *overrides):
        name = (*mesh.items(), *overrides)
        if name not in cache:
            cache[name] = build(mesh, overrides)
        return cache[name]

    return run
