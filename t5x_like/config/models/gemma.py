# SPDX-License-Identifier: Apache-2.0
"""Gemma."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.models.base import Activation, NormPosition
from t5x_like.config.models.llama import LlamaConfig


@dataclass(frozen=True)
class GemmaConfig(LlamaConfig):
    """Gemma (Gemma Team 2024): LLaMA with a gated GELU, scaled embeddings, and norms kept as what is above 1."""

    kind: Literal["gemma"] = "gemma"  # type: ignore[assignment]
    activation: Activation = "gelu_tanh"
    norm_epsilon: float = 1e-6
    norm_around_one: bool = True
    scale_embeddings: bool = True
    tie_embeddings: bool = True


@dataclass(frozen=True)
class Gemma2Config(GemmaConfig):
    """Gemma 2 (Gemma Team 2024): norms before and after each branch, capped logits, a window in every other layer."""

    kind: Literal["gemma2"] = "gemma2"  # type: ignore[assignment]
    norm_position: NormPosition = "sandwich"
    attention_soft_cap: float | None = 50.0
    logits_soft_cap: float | None = 30.0
    window: int | None = 4096
    global_every: int | None = 2


@dataclass(frozen=True)
class Gemma3Config(GemmaConfig):
    """Gemma 3 (Gemma Team 2025): norms of queries and keys instead of caps, a window in five of six layers."""

    kind: Literal["gemma3"] = "gemma3"  # type: ignore[assignment]
    norm_position: NormPosition = "sandwich"
    query_key_norm: bool = True
    window: int | None = 1024
    global_every: int | None = 6
    rope_theta: float = 1000000.0
    local_rope_theta: float | None = 10000.0
