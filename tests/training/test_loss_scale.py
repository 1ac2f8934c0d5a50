# SPDX-License-Identifier: Apache-2.0
"""Dynamic loss scaling and the average of the parameters, step by step against a simulation in NumPy.

The model is one vector times another in float16, so that its gradient overflows exactly when NumPy's float16 does.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_like.models.context import Context
from t5x_like.precision import POLICIES, LossScaling
from t5x_like.training.state import init_state
from t5x_like.training.step import make_step

RULE = LossScaling(initial=2.0**11, growth_interval=3, lowest=2.0**9, highest=2.0**13)
W = np.array([0.5, -1.0, 2.0], np.float32)
SMALL, HUGE = [0.5, 3.0, -1.0], [1.0, 1000.0, 1.0]  # 1000 * 2^9 is past float16
# A plain overflow; two in a row, down to the lowest scale and held there; a quiet time broken off one step before it
# would double; doublings up to the highest scale; a number that is not one.
SCRIPT = [SMALL, HUGE, HUGE, HUGE, HUGE, SMALL, SMALL, [1.0, 200.0, 0.0]] + [SMALL] * 14 + [[1.0, np.nan, 1.0], SMALL]
RATE, DECAY, B1, B2, EPSILON = 0.1, 0.6, 0.9, 0.95, 1e-8


class Product:
    """sum(w * x) in float16, a loss of weight 1."""

    separable = True

    def prepare(self, state, batch, key):
        return batch

    def loss(self, model, params, batch, *, key, ctx, scale=None):
        product = params["w"].astype(ctx.policy.compute) * batch["x"].astype(ctx.policy.compute)
        return {"loss": (product.astype(jnp.float32).sum(), jnp.ones(()))}


def simulate():
    """What every step leaves behind: plain Python and NumPy."""
    w, average, m, v = W.astype(np.float64), W.astype(np.float64), np.zeros(3), np.zeros(3)
    scale, quiet, count = RULE.initial, 0, 0
    for number, x in enumerate(SCRIPT):
        with np.errstate(over="ignore"):
            scaled = np.float16(scale) * np.array(x, np.float16)
        used, finite = scale, bool(np.isfinite(scaled).all())
        update = 0.0
        if finite:
            gradient = scaled.astype(np.float64) / scale
            count += 1
            m, v = B1 * m + (1 - B1) * gradient, B2 * v + (1 - B2) * gradient**2
            direction = (m / (1 - B1**count)) / (np.sqrt(v / (1 - B2**count)) + EPSILON)
            w = w - RATE * direction
            decay = min(DECAY, (1 + number) / (10 + number))
            average = decay * average + (1 - decay) * w
            update = RATE * np.linalg.norm(direction)
            quiet += 1
            if quiet == RULE.growth_interval:
                scale, quiet = min(2 * scale, RULE.highest), 0
        else:
            scale, quiet = max(scale / 2, RULE.lowest), 0
        yield used, finite, update, {"w": w, "average": average, "m": m, "count": count, "scale": scale, "quiet": quiet}


@pytest.fixture(scope="module")
def taken():
    """(state as NumPy, sums) after every step of the script."""
    policy = dataclasses.replace(POLICIES["fp16"], loss_scaling=RULE)
    optimizer = optax.scale_by_adam(B1, B2, EPSILON)
    step = jax.jit(make_step(None, Product(), optimizer, Context(policy=policy), ema_decay=DECAY))
    state = init_state({"w": jnp.asarray(W)}, optimizer, loss_scaling=RULE, average=True)
    knobs = {"learning_rate": jnp.full(1, RATE), "count": jnp.int32(1), "key": jax.random.key(0)}
    results = []
    for x in SCRIPT:
        state, sums = step(state, {"x": jnp.asarray(x, jnp.float32)[None, None]}, knobs)
        results.append(jax.tree.map(np.asarray, (state, sums)))
    return results


def test_every_step_is_the_simulated_one(taken):
    seen = set()
    for number, ((state, sums), (scale, finite, update, expected)) in enumerate(zip(taken, simulate(), strict=True)):
        assert state.step == number + 1  # the data goes on whether or not a step is skipped
        assert (state.loss_scale.value, state.loss_scale.quiet_steps) == (expected["scale"], expected["quiet"])
        assert state.opt.count == expected["count"]
        np.testing.assert_allclose(state.trainable["w"], expected["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.average["w"], expected["average"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.opt.mu["w"], expected["m"], rtol=1e-5, atol=1e-6)
        assert (sums["loss_scale"][0], sums["skipped"][0]) == (scale, not finite)
        assert sums["loss_scale"][1] == sums["skipped"][1] == sums["param_norm"][1] == 1
        assert sums["grad_norm"][1] == sums["update_norm"][1] == finite  # a skipped step has no share in their means
        np.testing.assert_allclose(sums["update_norm"][0], update, rtol=1e-5)
        seen.add((scale, finite))
    assert {scale for scale, _ in seen} == {2.0**power for power in (9, 10, 11, 12, 13)}
    assert {(RULE.lowest, False), (RULE.highest, True)} <= seen


def test_a_skipped_step_leaves_every_bit_but_the_scale_and_the_count_of_steps(taken):
    skipped = [number for number, (_, sums) in enumerate(taken) if sums["skipped"][0]]
    assert len(skipped) == 6
    for number in skipped:
        (before, _), (after, sums) = taken[number - 1], taken[number]
        for name in ("trainable", "frozen", "opt", "average"):
            jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
        assert sums["grad_norm"][0] == 0  # not infinite: it is added up over the log interval


def test_the_gradient_norm_is_that_of_the_unscaled_gradient(taken):
    for (_, sums), x in zip(taken, SCRIPT, strict=True):
        if not sums["skipped"][0]:
            np.testing.assert_allclose(sums["grad_norm"][0], np.linalg.norm(x), rtol=1e-6)
