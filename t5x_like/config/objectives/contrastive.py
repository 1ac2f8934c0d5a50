# SPDX-License-Identifier: Apache-2.0
"""Objectives that compare the rows of a batch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import above_zero
from t5x_like.config.objectives.base import ObjectiveConfig


@dataclass(frozen=True)
class ContrastiveConfig(ObjectiveConfig):
    """Which text of a batch belongs to which image: of a "softmax" over all, both ways (Radford et al. 2021), or of
    every pair by itself, its "sigmoid" (Zhai et al. 2023)."""

    streams: ClassVar[tuple[str, ...]] = ("images", "text")

    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    max_scale: float | None = 100.0  # of the products of vectors before a softmax; None: any

    def __post_init__(self) -> None:
        above_zero(self, "max_scale")
