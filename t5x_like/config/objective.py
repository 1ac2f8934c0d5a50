# SPDX-License-Identifier: Apache-2.0
"""The kinds of objective."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import positive
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class CausalLMConfig:
    """Next-token prediction. `logits_chunk` positions of every sequence have float32 logits at a time."""

    kind: Literal["causal_lm"] = "causal_lm"
    logits_chunk: int | None = None  # None: chosen from batch and vocabulary, at most half the sequence
    z_loss: float = 0.0  # coefficient of the squared logarithm of the softmax's denominator; PaLM has 1e-4
    label_smoothing: float = 0.0  # share of every target that is spread over the whole vocabulary

    def __post_init__(self) -> None:
        if self.logits_chunk is not None:
            positive(self, "logits_chunk")
        if not self.z_loss >= 0:
            raise FieldError("z_loss", f"{self.z_loss} is below 0")
        if not 0 <= self.label_smoothing < 1:
            raise FieldError("label_smoothing", f"{self.label_smoothing} is outside [0, 1)")


ObjectiveConfig = CausalLMConfig
