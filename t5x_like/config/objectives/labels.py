# SPDX-License-Identifier: Apache-2.0
"""Objectives that fine-tune an encoder with a head, each the one called like it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import inside
from t5x_like.config.objectives.base import ObjectiveConfig


@dataclass(frozen=True)
class LabelsConfig(ObjectiveConfig):
    """Cross-entropy of labels."""

    streams: ClassVar[tuple[str, ...]] = ("encoder",)


@dataclass(frozen=True)
class ClassificationObjectiveConfig(LabelsConfig):
    """The class of a text or of a pair; with one label the square of the distance from a number."""

    kind: Literal["classification"] = "classification"
    label_smoothing: float = 0.0  # share of every label that is spread over all of them

    def __post_init__(self) -> None:
        inside(self, "[0, 1)", "label_smoothing")


@dataclass(frozen=True)
class TaggingObjectiveConfig(LabelsConfig):
    """The tag of every word."""

    kind: Literal["tagging"] = "tagging"


@dataclass(frozen=True)
class SpanObjectiveConfig(LabelsConfig):
    """Where in a text an answer starts and where it ends (Devlin et al. 2019, section 4.2)."""

    kind: Literal["span"] = "span"
