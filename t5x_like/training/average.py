# SPDX-License-Identifier: Apache-2.0
"""The exponential moving average of the parameters (Polyak and Juditsky 1992, with exponential weights)."""

import jax
import jax.numpy as jnp

from t5x_like.models.layers.parameters import Params


def update_average(average: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """Returns d * average + (1 - d) * params, leaf by leaf, with d = min(decay, (1 + step) / (10 + step)).

    The average starts at the initial parameters. The smaller decay of the first steps lets it forget them: a short
    run's average would be mostly its initialisation otherwise. It is `decay` from step (10 decay - 1) / (1 - decay) on:
    step 890 for .99.

    Args:
      average, params: trees of the same shapes; the average in its own dtype, float32.
      decay: in (0, 1).
      step: int32 scalar, number of steps taken before this one.
    """
    t = step.astype(jnp.float32)
    rest = 1 - jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, p: a + rest * (p - a), average, params)
