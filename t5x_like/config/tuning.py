# SPDX-License-Identifier: Apache-2.0
"""Which parameters are trained."""

import re
from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import regular_expressions
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class FullTuningConfig:
    """Every parameter is trained."""

    kind: Literal["full"] = "full"

    def trains(self, name: str) -> bool:
        """Whether the parameter of a name, such as "decoder/layers/0/mlp/up/kernel", is trained."""
        del name
        return True


@dataclass(frozen=True)
class PartialTuningConfig:
    """Parameters whose whole name matches one of the patterns are trained, the others stay as they are.

    For example ["decoder/final_norm/.*", ".*/bias"] (BitFit, Ben Zaken et al. 2022, with the last norm besides).
    """

    kind: Literal["partial"] = "partial"
    train: tuple[str, ...] = ()  # regular expressions

    def __post_init__(self) -> None:
        if not self.train:
            raise FieldError("train", "is empty; give regular expressions of names, such as ['.*/bias']")
        regular_expressions("train", self.train)

    def trains(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.train)


TuningConfig = FullTuningConfig | PartialTuningConfig
