# SPDX-License-Identifier: Apache-2.0
"""Dynamic loss scaling (Micikevicius et al. 2018): the scale as part of the training state, and its rule."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from t5x_like.precision import LossScaling


class LossScale(flax.struct.PyTreeNode):
    """The scale and what its rule counts.

    Attributes:
      value: float32 scalar, what the mean loss is multiplied by.
      quiet_steps: int32 scalar, steps with finite gradients since the scale last changed.
    """

    value: jax.Array
    quiet_steps: jax.Array

    @classmethod
    def start(cls, rule: LossScaling) -> "LossScale":
        """Returns the scale of the first step."""
        return cls(jnp.asarray(rule.initial, jnp.float32), jnp.zeros((), jnp.int32))

    def after(self, finite: jax.Array, rule: LossScaling) -> "LossScale":
        """Returns the next step's scale: halved unless this step's gradients were finite, doubled after a quiet time.

        The scale stays between `rule.lowest` and `rule.highest`; a doubling or a halving starts the count anew.
        """
        quiet = self.quiet_steps + 1
        grows = quiet >= rule.growth_interval
        larger = jnp.where(grows, jnp.minimum(2 * self.value, rule.highest), self.value)
        smaller = jnp.maximum(self.value / 2, rule.lowest)
        return LossScale(
            value=jnp.where(finite, larger, smaller),
            quiet_steps=jnp.where(finite & ~grows, quiet, 0),
        )


def all_finite(tree: Any) -> jax.Array:
    """Whether no number of a tree is infinite or NaN.

    By `isfinite` of every number: a maximum across the emulated devices of a CPU drops NaN.
    """
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
