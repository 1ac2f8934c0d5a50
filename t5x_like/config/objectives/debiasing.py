# SPDX-License-Identifier: Apache-2.0
"""Language modelling that makes paired sentences equally likely."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import at_least
from t5x_like.config.objectives.cross_entropy import CrossEntropyConfig


@dataclass(frozen=True)
class DebiasingConfig(CrossEntropyConfig):
    """Every next token of a text, and pairs of sentences whose probabilities should not differ."""

    kind: Literal["debiasing"] = "debiasing"
    weight: float = 1.0  # of the squared difference of a pair's log-probabilities, in nats, beside the loss of a token

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "weight")
