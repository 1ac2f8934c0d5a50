# SPDX-License-Identifier: Apache-2.0
"""Rotary positions beyond the length that a model was trained at."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import Checked, Count, Positive


@dataclass(frozen=True)
class RopeScalingConfig(Checked):
    """How the frequencies of rotary positions change; see `models/layers/positions.py`.

    "linear" (Chen et al. 2023) divides all by `factor`; "llama3" (Dubey et al. 2024) the slow ones; "yarn" (Peng et al.
    2023) likewise, by how often they turn within the original length, and raises attention's logits a little.
    """

    kind: Literal["linear", "llama3", "yarn"] = "linear"
    factor: Positive = 8.0
    original_length: Count = 8192  # that the model was trained at; "linear" does not ask
    low_frequency_factor: Positive = 1.0  # llama3: waves longer than original_length / this are slow
    high_frequency_factor: Positive = 4.0  # llama3: those shorter than original_length / this are fast
    beta_fast: Positive = 32.0  # yarn: turns within the original length from which on a frequency stays
    beta_slow: Positive = 1.0  # yarn: turns below which it is divided in full
    attention_factor: Positive | None = None  # yarn: of cosines and sines; None: 1 + ln(factor) / 10
