# SPDX-License-Identifier: Apache-2.0
"""Adam's moments in eight bits (Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization).

Every 256 elements share a scale, the largest of their absolute values; an element is the nearest of 256 numbers between
-1 and 1 (between 0 and 1 for the second moment) times that. A step takes moments out of their bytes, does what Adam
does in float32, and puts them back: what is rounded is what is remembered, not the step.

Parameters of fewer than 4096 elements stay in float32, as in the paper's own code, and so do tables that tokens are
looked up in, as in the paper: of a row that was seen once, a first moment can outlive the second, a step without bound.

Differs from that code in where blocks begin. There a parameter is one long row; here its last dimensions are, as few
of them as fill a block, and the others, layers among them, number such rows. So a layer's bytes do not depend on how
many are stacked, and bytes and scales are cut over a mesh alike. Of rows of multiples of 256 blocks are that code's.
"""

import math
from typing import Any, NamedTuple

import jax
import optax

from t5x_like.config import AdamWConfig
from t5x_like.errors import UserError
from t5x_like.models.layers.levels import BLOCK, coded_blocks, decoded_blocks
from t5x_like.models.layers.parameters import Params, ParamSpec, map_specs, named_specs
from t5x_like.training.matrices import dimensions

LEAST = 4096  # elements of a parameter, of one layer, whose moments are in eight bits


class EightBit(NamedTuple):
    """A moment of one parameter, or of a stack."""

    codes: jax.Array  # uint8, the parameter's shape: the numbers that eight bits have, in order
    scales: jax.Array  # float32, the parameter's shape with the dimensions that blocks run over as one, of blocks


def _leading(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions that blocks do not run over: all but the fewest last ones that have a block's elements."""
    return next(shape[:dim] for dim in reversed(range(len(shape))) if math.prod(shape[dim:]) >= BLOCK)


def scales_spec(spec: ParamSpec) -> ParamSpec:
    """Returns what the scales of a parameter's moments are, e.g. [L, D, H C / 256] of a query kernel [L, D, H, C]."""
    leading = _leading(spec.shape)
    row = math.prod(spec.shape[len(leading) :])
    return ParamSpec((*leading, -(-row // BLOCK)), (*spec.axes[: len(leading)], "blocks"))


def quantise(moment: jax.Array, signed: bool) -> EightBit:
    """Rounds to the nearest number that eight bits have."""
    codes, scales = coded_blocks(moment.reshape(*_leading(moment.shape), -1), signed)
    return EightBit(codes.reshape(moment.shape), scales)


def dequantise(moment: EightBit, signed: bool) -> jax.Array:
    """Returns the float32 numbers that the bytes stand for."""
    shape = moment.codes.shape
    rows = moment.codes.reshape(*shape[: moment.scales.ndim - 1], -1)
    return decoded_blocks(rows, moment.scales, signed).reshape(shape)


def is_eight_bit(spec: ParamSpec) -> bool:
    """Whether a parameter's moments are kept in eight bits."""
    return not spec.is_looked_up and math.prod(spec.shape[dim] for dim in dimensions(spec).own) >= LEAST


def scale_by_eight_bit_adam(config: AdamWConfig, specs: Params) -> optax.GradientTransformation:
    """Returns `optax.scale_by_adam` with its moments in eight bits between steps. Raises UserError: no parameter is
    large enough."""
    if not any(map(is_eight_bit, named_specs(specs).values())):
        raise UserError(
            f"optimizer.eight_bit: True, but no parameter that is trained, tables aside, has {LEAST} elements in a "
            "layer; accepted: False"
        )
    adam = optax.scale_by_adam(config.b1, config.b2, config.epsilon)

    def change(function: Any, state: Any) -> Any:
        def moments(tree: Params, signed: bool) -> Params:
            return map_specs(lambda spec, one: function(one, signed) if is_eight_bit(spec) else one, specs, tree)

        return state._replace(mu=moments(state.mu, True), nu=moments(state.nu, False))

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        directions, state = adam.update(grads, change(dequantise, state), params)
        return directions, change(quantise, state)

    return optax.GradientTransformation(lambda params: change(quantise, adam.init(params)), update)
