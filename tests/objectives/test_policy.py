# SPDX-License-Identifier: Apache-2.0
"""A policy's losses: those of trl's GRPO, PPO's value loss, estimates of a divergence."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.config.objectives.policy import PolicyConfig
from t5x_like.objectives.policy import Policy, divergence_estimate, value_loss

GOLDEN = Path(__file__).parents[1] / "golden/alignment.npz"
TRL = {
    "grpo": {"kl": 0.05, "normalise": "texts"},
    "dr_grpo": {"normalise": "constant", "max_new_tokens": 9},
    "bnpo": {"normalise": "tokens", "clip_high": 0.28},
}


@pytest.mark.parametrize("kind", TRL)
def test_losses_and_gradients_are_those_of_trl(kind):
    """Of two tokens whose logits give the drawn log-probability to the first."""
    with np.load(GOLDEN) as golden:
        drawn = {name: golden[f"policy_{name}"] for name in ("log_p", "old", "reference", "advantages", "mask")}
        expected = golden[f"{kind}_loss"], golden[f"{kind}_gradient"]
    objective = Policy(PolicyConfig(**TRL[kind]))
    shares, weight = objective._shares(jnp.asarray(drawn["mask"], jnp.float32))
    rest = {"targets": jnp.zeros(drawn["mask"].shape, jnp.int32), "old_logprobs": drawn["old"]}
    rest["advantages"] = jnp.broadcast_to(drawn["advantages"][:, None], drawn["mask"].shape)
    if "kl" in TRL[kind]:
        rest["reference_logprobs"] = drawn["reference"]

    def loss(log_p):
        logits = jnp.stack([log_p, jnp.log(-jnp.expm1(log_p))], -1)
        return (objective._of_token(logits, rest)["objective"] * shares).sum() / weight.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(drawn["log_p"]))
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(gradient * drawn["mask"], expected[1] * drawn["mask"], rtol=1e-4, atol=1e-6)


def test_a_value_that_moved_far_is_not_drawn_further():
    values, old, returns = jnp.array([1.0, 1.0, 0.1]), jnp.zeros(3), jnp.array([2.0, -2.0, 2.0])
    got, slope = jax.vjp(lambda v: value_loss(v, old, returns, 0.2), values)
    np.testing.assert_allclose(got, [1.8**2 / 2, 9 / 2, 1.9**2 / 2], rtol=1e-6)
    np.testing.assert_allclose(slope(jnp.ones(3))[0], [0, 3, -1.9], rtol=1e-6)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_estimates_of_a_divergence(kind):
    """k1 and k3 are unbiased, k2 nearly so where both are near one another (Schulman 2020): over all tokens."""
    p, q = jnp.array([0.5, 0.3, 0.2]), jnp.array([0.45, 0.33, 0.22])
    exact = (p * jnp.log(p / q)).sum()
    got = (p * divergence_estimate(jnp.log(p), jnp.log(q), kind)).sum()
    np.testing.assert_allclose(got, exact, rtol=0.05 if kind == "k2" else 1e-4)
