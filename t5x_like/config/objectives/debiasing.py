# SPDX-License-Identifier: Apache-2.0
"""Language modelling that makes paired sentences equally likely."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import Coefficient
from t5x_like.config.objectives.cross_entropy import CrossEntropyConfig


@dataclass(frozen=True)
class DebiasingConfig(CrossEntropyConfig):
    """Every next token of a text, and pairs of sentences whose probabilities should not differ."""

    kind: Literal["debiasing"] = "debiasing"
    weight: Coefficient = (
        1.0  # of the squared difference of a pair's log-probabilities, in nats, beside the loss of a token
    )
