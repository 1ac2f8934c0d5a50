# SPDX-License-Identifier: Apache-2.0
"""Bytes that training keeps from step to step, over all devices. Activations are not among them."""

from collections.abc import Callable
from typing import Any

from t5x_like.accounting.families import parts
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import RunConfig

FLOAT32 = 4  # bytes; parameters, gradients and moments are float32 in every precision


def _muon(config: RunConfig) -> int:
    """One moment of the layers' matrices, two of all else, which AdamW moves."""
    matrices = sum(part.multiplied for part in parts(config.model) if not part.is_table)
    return 2 * count_parameters(config.model).total - matrices


# {optimizer kind: elements of its state}. Adafactor's depend on every matrix's shape and are not listed.
MOMENTS: dict[str, Callable[[Any], int]] = {
    "adamw": lambda config: 2 * count_parameters(config.model).total,
    "lion": lambda config: count_parameters(config.model).total,
    "muon": _muon,
    "sgd": lambda config: count_parameters(config.model).total if config.optimizer.momentum else 0,
}


def state_bytes(config: RunConfig) -> dict[str, int | None]:
    """Bytes of "parameters", "gradients" (one step's), "optimizer" and "average"; None where it is not known."""
    total = count_parameters(config.model).total
    moments = MOMENTS.get(config.optimizer.kind)
    return {
        "parameters": FLOAT32 * total,
        "gradients": FLOAT32 * total,
        "optimizer": None if moments is None else FLOAT32 * moments(config),
        "average": 0 if config.training.ema_decay is None else FLOAT32 * total,
    }
