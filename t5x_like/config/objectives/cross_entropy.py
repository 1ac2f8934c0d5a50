# SPDX-License-Identifier: Apache-2.0
"""Objectives that predict tokens."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import Coefficient, Count, Rate
from t5x_like.config.objectives.base import ObjectiveConfig


@dataclass(frozen=True)
class CrossEntropyConfig(ObjectiveConfig):
    """Cross-entropy of tokens. `logits_chunk` positions of every sequence have float32 logits at a time."""

    logits_chunk: Count | None = None  # None: chosen from batch and vocabulary, at most half the sequence
    z_loss: Coefficient = 0.0  # coefficient of the squared logarithm of the softmax's denominator; PaLM has 1e-4
    label_smoothing: Rate = 0.0  # share of every target that is spread over the whole vocabulary

    def alone(self) -> ObjectiveConfig:
        """The cross-entropy, where there are other models."""
        return CausalLMConfig(logits_chunk=self.logits_chunk) if self.folders else self


@dataclass(frozen=True)
class CausalLMConfig(CrossEntropyConfig):
    """Every next token of a text."""

    more: ClassVar[tuple[tuple[str, ...], ...]] = (("images", "decoder"),)

    kind: Literal["causal_lm"] = "causal_lm"


@dataclass(frozen=True)
class PrefixLMConfig(CrossEntropyConfig):
    """Every next token after a prefix that is seen as a whole (Raffel et al. 2020, section 3.2.1)."""

    kind: Literal["prefix_lm"] = "prefix_lm"


@dataclass(frozen=True)
class Seq2SeqConfig(CrossEntropyConfig):
    """Every token of a text, given another text and those before it."""

    streams: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    kind: Literal["seq2seq"] = "seq2seq"


@dataclass(frozen=True)
class MaskedLMConfig(CrossEntropyConfig):
    """The tokens that were masked, given all others (Devlin et al. 2019)."""

    streams: ClassVar[tuple[str, ...]] = ("encoder",)

    kind: Literal["masked_lm"] = "masked_lm"
