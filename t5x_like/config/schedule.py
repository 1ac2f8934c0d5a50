# SPDX-License-Identifier: Apache-2.0
"""The kinds of learning-rate schedule."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.strict import FieldError


@dataclass(frozen=True)
class _Schedule:
    warmup_fraction: float = 0.1  # of the run's steps

    def __post_init__(self) -> None:
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name, 0.0) <= 1:
                raise FieldError(name, f"{getattr(self, name)} is outside [0, 1]")


@dataclass(frozen=True)
class CosineConfig(_Schedule):
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    final_fraction: float = 0.0  # of the peak learning rate, at the end


@dataclass(frozen=True)
class LinearConfig(_Schedule):
    """Linear warm-up, then a straight line."""

    kind: Literal["linear"] = "linear"
    final_fraction: float = 0.0  # of the peak learning rate, at the end


@dataclass(frozen=True)
class ConstantConfig(_Schedule):
    """Linear warm-up, then the peak rate to the end."""

    kind: Literal["constant"] = "constant"


ScheduleConfig = CosineConfig | LinearConfig | ConstantConfig
