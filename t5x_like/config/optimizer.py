# SPDX-License-Identifier: Apache-2.0
"""The kinds of optimizer."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.strict import FieldError


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov and Hutter 2019); decay acts on matrices only, never on norms and biases."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = 1e-3  # the peak
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # global norm of the gradient; None: no clipping

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise FieldError("learning_rate", f"{self.learning_rate} is not above 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise FieldError(name, f"{getattr(self, name)} is outside [0, 1)")
        for name in ("epsilon", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise FieldError(name, f"{getattr(self, name)} is below 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise FieldError("clip_norm", f"{self.clip_norm} is not above 0; None turns clipping off")


OptimizerConfig = AdamWConfig
