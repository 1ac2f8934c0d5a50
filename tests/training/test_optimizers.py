# SPDX-License-Identifier: Apache-2.0
"""AdamW against its published algorithm in NumPy, schedules against their closed forms."""

import math

import jax
import numpy as np
import pytest

from t5x_like.config import AdamWConfig, ConstantConfig, CosineConfig, LinearConfig
from t5x_like.models import build_model
from t5x_like.training.optimizers import build_optimizer, learning_rates


def flat(tree):
    return {
        "/".join(entry.key for entry in path): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_three_steps_of_adamw(clip_norm, make_run, redraw):
    """Loshchilov and Hutter 2019, algorithm 2, after clipping by the global norm (Pascanu et al. 2013)."""
    config = AdamWConfig(b1=0.8, b2=0.9, epsilon=1e-3, weight_decay=0.1, clip_norm=clip_norm)
    specs = build_model(
        make_run("model.use_bias=true", "model.tie_embeddings=false", "model.positions=learned").model
    ).specs()
    optimizer = build_optimizer(config, specs)
    params = redraw(specs)
    state = optimizer.init(params)
    expected = flat(params)
    m, v = ({name: np.zeros_like(value) for name, value in expected.items()} for _ in range(2))
    update = jax.jit(optimizer.update)
    for step, (rate, size) in enumerate([(0.1, 1.0), (0.2, 1e-4), (0.05, 0.3)], start=1):  # the second is not clipped
        gradient = jax.tree.map(lambda leaf, size=size: leaf * np.float32(size), redraw(specs, seed=step))
        directions, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, d, rate=rate: p - rate * d, params, directions)

        g = flat(gradient)
        norm = math.sqrt(sum((value**2).sum() for value in g.values()))
        assert (norm > 1) == (step != 2)
        for name, value in expected.items():
            clipped = g[name] / norm if clip_norm is not None and norm > clip_norm else g[name]
            m[name] = 0.8 * m[name] + 0.2 * clipped
            v[name] = 0.9 * v[name] + 0.1 * clipped**2
            direction = m[name] / (1 - 0.8**step) / (np.sqrt(v[name] / (1 - 0.9**step)) + 1e-3)
            # a stack of norms or of biases has two dimensions and is no matrix
            decay = 0.1 if name.endswith(("kernel", "embedding")) else 0.0
            expected[name] = value - rate * (direction + decay * value)
    for name, value in flat(params).items():
        np.testing.assert_allclose(value, expected[name], atol=2e-6, rtol=2e-5, err_msg=name)


def test_schedules_at_their_corners():
    total = 100
    steps = np.arange(total)
    for schedule, middle in (
        (CosineConfig(warmup_fraction=0.1, final_fraction=0.2), 0.2 + 0.8 * 0.5),
        (LinearConfig(warmup_fraction=0.1, final_fraction=0.2), 0.2 + 0.8 * 0.5),
        (ConstantConfig(warmup_fraction=0.1), 1.0),
    ):
        rates = learning_rates(schedule, 3.0, total, steps)
        assert rates.dtype == np.float32
        np.testing.assert_allclose(rates[:10], 3.0 * np.arange(1, 11) / 10, rtol=1e-6)  # equal parts up to the peak
        # half way between the peak, which step 9 has, and step 100, which would have the final rate: 54.5
        np.testing.assert_allclose((rates[54] + rates[55]) / 2, 3.0 * middle, rtol=1e-6)
        assert rates[99] > 3.0 * 0.2 or schedule.kind == "constant"
        assert (np.diff(rates[10:]) <= 0).all()
        # any part of a run has the rates of the whole
        np.testing.assert_array_equal(learning_rates(schedule, 3.0, total, steps[37:40]), rates[37:40])


def test_closed_forms_without_warmup():
    steps = np.arange(9)
    linear = learning_rates(LinearConfig(warmup_fraction=0), 1.0, 9, steps)
    np.testing.assert_allclose(linear, 1 - (steps + 1) / 10, rtol=1e-6)
    cosine = learning_rates(CosineConfig(warmup_fraction=0), 1.0, 9, steps)
    np.testing.assert_allclose(cosine, [(1 + math.cos(math.pi * (step + 1) / 10)) / 2 for step in steps], rtol=1e-6)
    np.testing.assert_allclose(learning_rates(ConstantConfig(warmup_fraction=0), 2.0, 9, steps), 2.0)


def test_a_run_of_one_step_and_one_of_warmup_only_move():
    for schedule in (CosineConfig(), LinearConfig(), ConstantConfig(), CosineConfig(warmup_fraction=1.0)):
        for total in (1, 2, 7):
            rates = learning_rates(schedule, 1.0, total, np.arange(total))
            assert (rates > 0).all() and (rates <= 1).all()
