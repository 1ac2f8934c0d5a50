# SPDX-License-Identifier: Apache-2.0
"""Painting what is hidden of an image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.objectives.base import ObjectiveConfig


@dataclass(frozen=True)
class MaskedPatchesConfig(ObjectiveConfig):
    """The pixels of hidden patches, given the others (He et al. 2022)."""

    streams: ClassVar[tuple[str, ...]] = ("images",)

    kind: Literal["masked_patches"] = "masked_patches"
