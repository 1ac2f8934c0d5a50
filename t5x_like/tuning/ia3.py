# SPDX-License-Identifier: Apache-2.0
"""IA3 (Liu et al. 2022): vectors that scale keys, values and what enters the last map of a feed-forward network."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.models.layers.parameters import Constant, Params, ParamSpec
from t5x_like.models.layers.tuned import Scaled
from t5x_like.tuning.method import Method, beside


class IA3Method(Method):
    beside, fields = "ia3", ("outputs", "inputs")

    def added(self, name: str, kernel: ParamSpec) -> dict[str, ParamSpec]:
        """Ones, over what enters or over what leaves."""
        wanted = {"into": (self.config.inputs, kernel.in_axes), "out": (self.config.outputs, kernel.out_axes)}
        return {
            part: beside(kernel, (), axes, Constant(1.0))
            for part, (patterns, axes) in wanted.items()
            if any(re.fullmatch(pattern, name) for pattern in patterns)
        }

    def node(self, kernel: Any, parts: Params) -> Scaled:
        return Scaled(kernel, parts.get("into"), parts.get("out"))

    def merged(self, node: Scaled, pattern: str, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        entering, dims, leaving = pattern.replace("->", ",").split(",")
        kernel = node.kernel
        if node.into is not None:
            kernel = jnp.einsum(f"{dims},{entering}->{dims}", kernel, node.into)
        if node.out is not None:
            kernel = jnp.einsum(f"{dims},{leaving}->{dims}", kernel, node.out)
            bias = None if bias is None else bias * node.out
        return kernel, bias
