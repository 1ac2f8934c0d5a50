# SPDX-License-Identifier: Apache-2.0
"""The schedules of the pipeline tick by tick, what the bubble computes, and what is kept for the backward pass."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config import MeshConfig
from t5x_like.errors import UserError
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.pipeline import Pipeline
from t5x_like.parallel.rules import MeshLayout
from t5x_like.training.program import program_for

WIDTH = 4


def pipeline(stages, rounds, microbatches):
    return Pipeline(MeshLayout(make_mesh(MeshConfig(pipe=stages))), rounds, microbatches)


def simulate(stages, rounds, microbatches):
    """What every stage works at, tick by tick, by carrying microbatches from hand to hand: [ticks][S] of (m, r)."""
    waiting = [(m, 0) for m in range(microbatches)]
    hands = [None] * stages
    table = []
    while waiting or any(hands[:-1]):
        hands = [waiting.pop(0) if waiting else None, *hands[:-1]]
        table.append(list(hands))
        done = hands[-1]
        if done is not None and done[1] + 1 < rounds:
            waiting.append((done[0], done[1] + 1))
    return table


@pytest.mark.parametrize(("stages", "rounds", "microbatches"), [(2, 1, 2), (4, 1, 8), (2, 3, 4), (4, 2, 4), (8, 2, 8)])
def test_the_bubble_is_as_long_as_the_formula_says(stages, rounds, microbatches):
    table = simulate(stages, rounds, microbatches)
    schedule = pipeline(stages, rounds, microbatches)
    assert schedule.ticks == len(table) == rounds * microbatches + stages - 1
    idle = sum(slot is None for row in table for slot in row)
    assert schedule.bubble == pytest.approx(idle / (len(table) * stages))
    assert schedule.bubble == pytest.approx((stages - 1) / (rounds * microbatches + stages - 1))


@pytest.mark.parametrize(("stages", "rounds", "microbatches"), [(2, 1, 2), (2, 2, 4), (4, 2, 4)])
def test_every_microbatch_meets_every_layer_in_order(stages, rounds, microbatches):
    """Each layer appends its number to a decimal; which microbatch each stage has is read off besides."""
    layers = 2 * stages * rounds
    schedule = pipeline(stages, rounds, microbatches)
    numbers = jnp.arange(1.0, layers + 1)[schedule.order(layers)]

    def stage(mine, x, microbatch, first):
        start = first
        for i in range(mine.shape[0]):
            x = x * 1.5 + mine[i]
        wrong = jnp.abs(mine[0] - 1 - start) + 0.0 * microbatch
        return x, {"wrong": wrong, "met": jnp.ones(())}

    x = jnp.arange(float(microbatches * 2 * 3 * WIDTH)).reshape(2 * microbatches, 3, WIDTH)
    got, aux = jax.jit(lambda numbers, x: schedule.run(stage, numbers, x))(numbers, x)
    expected = np.asarray(x, np.float64)
    for number in range(1, layers + 1):
        expected = expected * 1.5 + number
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_array_equal(aux["wrong"], np.zeros(microbatches))
    np.testing.assert_array_equal(aux["met"], np.full(microbatches, stages * rounds))  # bubble slots count for nothing


def test_bubbles_carry_no_gradient_and_no_nan():
    """A stage that divides by its input's norm has no value at zero; its gradient is as without a pipeline."""
    schedule = pipeline(4, 1, 4)
    kernels = jnp.asarray(np.random.default_rng(0).standard_normal((4, WIDTH, WIDTH)), jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((8, 3, WIDTH)), jnp.float32)

    def layer(kernel, x):
        return jnp.tanh(x / jnp.linalg.norm(x, axis=-1, keepdims=True) @ kernel)

    def stage(kernels, x, microbatch, first):
        return layer(kernels[0], x), {}

    def pipelined(kernels, x):
        return (schedule.run(stage, kernels, x)[0] ** 3).sum()

    def plain(kernels, x):
        for kernel in kernels:
            x = layer(kernel, x)
        return (x**3).sum()

    got = jax.jit(jax.value_and_grad(pipelined, (0, 1)))(kernels, x)
    expected = jax.value_and_grad(plain, (0, 1))(kernels, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_only_what_enters_a_stage_is_kept(equations, scan_results):
    """The scan over ticks stacks [ticks, S, b, T, D] for the backward pass, and nothing as wide as a stage's inside."""
    schedule = pipeline(2, 1, 4)
    kernels = jnp.ones((2, WIDTH, 7 * WIDTH))

    def stage(kernels, x, microbatch, first):
        return jnp.tanh(x @ kernels[0]) @ kernels[0].T, {}

    def loss(kernels, x):
        return (schedule.run(stage, kernels, x)[0] ** 2).sum()

    program = jax.make_jaxpr(jax.grad(loss))(kernels, jnp.ones((8, 3, WIDTH)))
    ticks = [equation for equation, _ in equations(program) if equation.primitive.name == "scan"]
    assert [scan.params["length"] for scan in ticks] == [5, 5]  # forward and backward
    kept = {value.shape for value in scan_results(ticks[0])[1]}
    assert (5, 2, 2, 3, WIDTH) in kept
    assert all(7 * WIDTH not in shape and len(shape) <= 5 for shape in kept)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["mesh.pipe=2", "model.num_layers=3", "training.microbatches=2"],
            r"^mesh.pipe: 2 stages do not divide the 3 repeats of the model's layers; accepted: 1, 3$",
        ),
        (
            ["mesh.pipe=2", "execution.pipeline_rounds=3", "training.microbatches=2"],
            r"^mesh.pipe: 2 stages x execution.pipeline_rounds=3 do not divide the 2 repeats .*; accepted: 1, 2$",
        ),
        (["mesh.pipe=2"], r"^training.microbatches: 1 is not a multiple of mesh.pipe=2; nearest: 2$"),
        (["execution.pipeline_rounds=2"], r"^execution.pipeline_rounds: 2, but mesh.pipe is 1; accepted: 1$"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides, expected, make_run):
    with pytest.raises(UserError, match=expected):
        _ = program_for(make_run(*overrides)).state_shardings


def test_the_program_is_as_large_for_4_layers_as_for_64(make_run):
    """Compile time does not depend on depth: with scanned layers the compiler is given programs of one size."""
    for mesh in (["mesh.fsdp=2"], ["mesh.pipe=2", "training.microbatches=2"]):
        sizes = set()
        for layers in (4, 16, 64):
            program = program_for(make_run(f"model.num_layers={layers}", "execution.remat=full", *mesh))
            batch = {name: jax.ShapeDtypeStruct((1, 8, 8), jnp.int32) for name in FEATURES}
            knobs = program.knobs(np.zeros(1, np.float32), jax.random.key(0))
            text = program.step.lower(program.abstract_state, batch, knobs).as_text()
            sizes.add(len(re.findall(r" = ", text)))
        assert len(sizes) == 1


FEATURES = ("decoder_input_tokens", "decoder_target_tokens")
