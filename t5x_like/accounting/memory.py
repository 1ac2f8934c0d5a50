# SPDX-License-Identifier: Apache-2.0
"""Bytes that training keeps from step to step, over all devices. Activations are not among them."""

from collections.abc import Callable
from typing import Any

from t5x_like.accounting.families import parts
from t5x_like.accounting.parts import Part
from t5x_like.config import RunConfig

FLOAT32 = 4  # bytes; parameters, gradients and moments are float32 in every precision


def _adafactor(part: Part, config: Any) -> int:
    second = part.sides + part.params - part.kernels if config.factored else part.params
    return second + (part.params if config.b1 else 0)


# {optimizer kind: elements of its state for one part and the optimizer's config}
MOMENTS: dict[str, Callable[[Part, Any], int]] = {
    "adafactor": _adafactor,
    "adamw": lambda part, config: 2 * part.params,
    "lion": lambda part, config: part.params,
    "muon": lambda part, config: 2 * part.params - (part.kernels if part.is_hidden else 0),
    "sgd": lambda part, config: part.params if config.momentum else 0,
}


def state_bytes(config: RunConfig) -> dict[str, int]:
    """Bytes of "parameters", "gradients" (one step's), the "optimizer"'s state and the parameters' "average"."""
    model = parts(config.model)
    params = FLOAT32 * sum(part.params for part in model)
    moments = MOMENTS[config.optimizer.kind]
    return {
        "parameters": params,
        "gradients": params,
        "optimizer": FLOAT32 * sum(moments(part, config.optimizer) for part in model),
        "average": 0 if config.training.ema_decay is None else params,
    }
