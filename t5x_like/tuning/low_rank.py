# SPDX-License-Identifier: Apache-2.0
"""LoRA, rsLoRA and DoRA (`models/layers/low_rank.py`): `lora` beside a kernel, with `a`, `b` and maybe `magnitude`."""

import math
from typing import Any

import jax

from t5x_like.models.layers.low_rank import LowRank, merged
from t5x_like.models.layers.parameters import Constant, Normal, Params, ParamSpec
from t5x_like.tuning.method import Method, beside


class LowRankMethod(Method):
    beside = "lora"

    def takes(self, name: str, spec: ParamSpec, first: str) -> bool:
        """Experts' too, but their columns have no lengths of their own."""
        of_experts = "expert" in spec.axes and spec.is_matrix and name.endswith("/kernel") and not self.config.dora
        return of_experts or super().takes(name, spec, first)

    def added(self, name: str, kernel: ParamSpec) -> dict[str, ParamSpec]:
        """A, drawn as a kernel is, B, zero, and DoRA's magnitude over the kernel's, 1."""
        sizes, rank = dict(zip(kernel.axes, kernel.shape, strict=True)), self.config.rank
        drawn = Normal(1 / math.sqrt(math.prod(sizes[axis] for axis in kernel.in_axes)))
        found = {
            "a": beside(kernel, kernel.in_axes, ("rank",), drawn, rank=rank),
            "b": beside(kernel, ("rank",), kernel.out_axes, Constant(0.0), rank=rank),
        }
        return found | ({"magnitude": beside(kernel, (), kernel.out_axes, Constant(1.0))} if self.config.dora else {})

    def node(self, kernel: Any, parts: Params) -> LowRank:
        scale, rate = self.config.scale, self.config.dropout_rate
        return LowRank(kernel, parts["a"], parts["b"], parts.get("magnitude"), scale, rate)

    def merged(self, node: LowRank, pattern: str, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        return merged(node, pattern), bias
