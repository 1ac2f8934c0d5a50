# SPDX-License-Identifier: Apache-2.0
"""The kinds of objective."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import positive


@dataclass(frozen=True)
class CausalLMConfig:
    """Next-token prediction. `logits_chunk` positions of every sequence have float32 logits at a time."""

    kind: Literal["causal_lm"] = "causal_lm"
    logits_chunk: int | None = None  # None: chosen from batch and vocabulary, at most half the sequence

    def __post_init__(self) -> None:
        if self.logits_chunk is not None:
            positive(self, "logits_chunk")


ObjectiveConfig = CausalLMConfig
