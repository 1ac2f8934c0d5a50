# SPDX-License-Identifier: Apache-2.0
"""How initial values and learning rates change with a model's size."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.models import AnyModelConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class MupConfig:
    """The maximal update parametrisation (Yang et al. 2022): the rate that is best for `base` is best for any width."""

    kind: Literal["mup"] = "mup"
    # The model that the learning rate is for, at which nothing is multiplied; fields that are not given are those of
    # `model`, so that {"d_model": 64, "num_heads": 2} is enough.
    base: AnyModelConfig | None = None
    depth: Literal["none", "complete_p"] = "none"  # or for any number of layers too (Dey et al. 2025, alpha = 1)

    def __post_init__(self) -> None:
        if self.base is None:
            raise FieldError("base", "is None; give the sizes that the learning rate is for, such as {'d_model': 64}")
