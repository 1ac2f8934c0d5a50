# SPDX-License-Identifier: Apache-2.0
"""Rotary positions beyond the length that a model was trained at."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import above_zero, at_least


@dataclass(frozen=True)
class RopeScalingConfig:
    """How the frequencies of rotary positions change; see `models/layers/positions.py`.

    "linear" (Chen et al. 2023) divides all by `factor`; "llama3" (Dubey et al. 2024) the slow ones; "yarn" (Peng et al.
    2023) likewise, by how often they turn within the original length, and raises attention's logits a little.
    """

    kind: Literal["linear", "llama3", "yarn"] = "linear"
    factor: float = 8.0
    original_length: int = 8192  # that the model was trained at; "linear" does not ask
    low_frequency_factor: float = 1.0  # llama3: waves longer than original_length / this are slow
    high_frequency_factor: float = 4.0  # llama3: those shorter than original_length / this are fast
    beta_fast: float = 32.0  # yarn: turns within the original length from which on a frequency stays
    beta_slow: float = 1.0  # yarn: turns below which it is divided in full
    attention_factor: float | None = None  # yarn: of cosines and sines; None: 1 + ln(factor) / 10

    def __post_init__(self) -> None:
        at_least(self, 1, "original_length")
        above_zero(self, "factor", "low_frequency_factor", "high_frequency_factor", "beta_fast", "beta_slow")
        above_zero(self, "attention_factor")
