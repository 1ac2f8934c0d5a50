# SPDX-License-Identifier: Apache-2.0
"""Which dtype each kind of number has. One policy object, passed explicitly."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike

from t5x_like.errors import unknown_name


@dataclass(frozen=True)
class Policy:
    """The dtypes of a run (mixed precision after Micikevicius et al. 2018)."""

    params: DTypeLike = jnp.float32  # parameters, as the optimizer and the checkpoint hold them
    compute: DTypeLike = jnp.float32  # activations and the operands of matrix products
    softmax: DTypeLike = jnp.float32  # attention weights, norms' statistics, logits and losses
    gradients: DTypeLike = jnp.float32  # accumulated over microbatches


POLICIES = {"f32": Policy(), "bf16": Policy(compute=jnp.bfloat16), "fp16": Policy(compute=jnp.float16)}


def policy(name: str) -> Policy:
    """Returns the preset `f32`, `bf16` or `fp16`."""
    if name not in POLICIES:
        raise unknown_name("precision", name, POLICIES)
    return POLICIES[name]
