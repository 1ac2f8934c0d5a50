# SPDX-License-Identifier: Apache-2.0
"""Finding objects."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import Coefficient
from t5x_like.config.objectives.labels import LabelsConfig


@dataclass(frozen=True)
class DetectionConfig(LabelsConfig):
    """Classes and boxes of matched queries (Carion et al. 2020, section 3.1)."""

    streams: ClassVar[tuple[str, ...]] = ("images",)

    kind: Literal["detection"] = "detection"
    l1: Coefficient = 5.0  # factors of what is wrong with a box
    iou: Coefficient = 2.0
    none: Coefficient = 0.1  # weight of a query that should find nothing
