# SPDX-License-Identifier: Apache-2.0
"""Which dtype each kind of number has. One policy object, passed explicitly."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.errors import unknown_name


@dataclass(frozen=True)
class LossScaling:
    """Dynamic loss scaling (Micikevicius et al. 2018, section 3.2.1): how large the gradients of float16 are made.

    The mean loss of a microbatch is multiplied by the scale before its gradient is taken, the gradient divided by it
    in float32. A step whose gradient overflowed is skipped and the scale halved; after `growth_interval` steps without
    one it is doubled.
    """

    initial: float = 2.0**15
    growth_interval: int = 2000  # steps
    lowest: float = 1.0
    highest: float = 2.0**24


@dataclass(frozen=True)
class Policy:
    """The dtypes of a run (mixed precision after Micikevicius et al. 2018)."""

    params: DTypeLike = jnp.float32  # parameters and their average, as optimizer and checkpoint hold them
    compute: DTypeLike = jnp.float32  # activations and the operands of matrix products
    softmax: DTypeLike = jnp.float32  # attention weights, norms' statistics, logits and losses
    gradients: DTypeLike = jnp.float32  # accumulated over microbatches
    loss_scaling: LossScaling | None = None  # where gradients in the compute dtype would underflow
    fp8: bool = False  # whether products with weights have operands of eight bits; see `models/layers/fp8.py`


POLICIES = {
    "f32": Policy(),
    "bf16": Policy(compute=jnp.bfloat16),
    "fp16": Policy(compute=jnp.float16, loss_scaling=LossScaling()),
    "fp8": Policy(compute=jnp.bfloat16, fp8=True),
}


def policy(name: str) -> Policy:
    """Returns the preset `f32`, `bf16`, `fp16` or `fp8`."""
    if name not in POLICIES:
        raise unknown_name("precision", name, POLICIES)
    return POLICIES[name]
