# SPDX-License-Identifier: Apache-2.0
"""Objectives that fine-tune a model with a head, each the one called like it."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import Coefficient, Rate
from t5x_like.config.objectives.base import ObjectiveConfig


@dataclass(frozen=True)
class LabelsConfig(ObjectiveConfig):
    """Cross-entropy of labels."""

    streams: ClassVar[tuple[str, ...]] = ("encoder",)


@dataclass(frozen=True)
class ClassificationObjectiveConfig(LabelsConfig):
    """The class of a text, of a pair or of an image; with one label the square of the distance from a number.

    A decoder may go on predicting the tokens of the same texts (Radford et al. 2018, section 3.2, equation 5: lambda).
    """

    more: ClassVar[tuple[tuple[str, ...], ...]] = (("decoder",), ("images",))

    kind: Literal["classification"] = "classification"
    label_smoothing: Rate = 0.0  # share of every label that is spread over all of them
    auxiliary_lm: Coefficient = 0.0  # what each text's mean loss of a next token is multiplied by; GPT has 0.5


@dataclass(frozen=True)
class TaggingObjectiveConfig(LabelsConfig):
    """The tag of every word."""

    kind: Literal["tagging"] = "tagging"


@dataclass(frozen=True)
class SpanObjectiveConfig(LabelsConfig):
    """Where in a text an answer starts and where it ends (Devlin et al. 2019, section 4.2)."""

    kind: Literal["span"] = "span"
