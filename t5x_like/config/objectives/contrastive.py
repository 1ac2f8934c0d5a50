# SPDX-License-Identifier: Apache-2.0
"""Objectives that compare the rows of a batch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import Positive
from t5x_like.config.objectives.base import ObjectiveConfig


@dataclass(frozen=True)
class ContrastiveConfig(ObjectiveConfig):
    """Which text of a batch belongs to which image."""

    streams: ClassVar[tuple[str, ...]] = ("images", "text")

    kind: Literal["contrastive"] = "contrastive"
    loss: Literal["softmax", "sigmoid"] = "softmax"  # over all, both ways, as in CLIP; of every pair, as in SigLIP
    max_scale: Positive = 100.0  # of the products of vectors before a softmax
