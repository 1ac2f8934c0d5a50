# SPDX-License-Identifier: Apache-2.0
"""Bottleneck adapters (Houlsby et al. 2019): small networks after the last maps of attention and of the feed-forward
network, with a way around them; after the latter alone as Pfeiffer et al. 2021 have them."""

from typing import Any

import jax

from t5x_like.errors import UserError
from t5x_like.models.layers.parameters import Constant, Normal, Params, ParamSpec
from t5x_like.models.layers.tuned import Followed
from t5x_like.tuning.method import Method, beside

STDDEV = 0.01  # of what goes down; what comes up starts at 0, so that a model begins as its base


class BottleneckMethod(Method):
    beside = "adapter"

    def added(self, name: str, kernel: ParamSpec) -> dict[str, ParamSpec]:
        if kernel.out_axes != ("embed",):
            made = " x ".join(kernel.out_axes)
            raise UserError(f"tuning.targets: {name!r} makes {made}; accepted: kernels that make the model's width")
        out, width = kernel.out_axes, self.config.width
        return {
            "down": beside(kernel, out, ("rank",), Normal(STDDEV), rank=width),
            "down_bias": beside(kernel, (), ("rank",), Constant(0.0), rank=width),
            "up": beside(kernel, ("rank",), out, Constant(0.0), rank=width),
            "up_bias": beside(kernel, (), out, Constant(0.0)),
        }

    def node(self, kernel: Any, parts: Params) -> Followed:
        return Followed(kernel, **parts, activation=self.config.activation)

    def merged(self, node: Followed, pattern: str, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        raise UserError("tuning.kind: the networks of 'adapter' are no linear maps, and cannot be put into kernels")
