# SPDX-License-Identifier: Apache-2.0
"""LLaMA and its relatives."""

from dataclasses import dataclass, field
from typing import Literal

from t5x_like.config.models.base import Activation, DecoderConfig
from t5x_like.config.models.experts import ExpertsConfig


@dataclass(frozen=True)
class LlamaConfig(DecoderConfig):
    """LLaMA 1 to 3 (Touvron et al. 2023; Dubey et al. 2024): rotary positions, RMSNorm, a gated SiLU, no biases."""

    kind: Literal["llama"] = "llama"
    activation: Activation = "silu"
    gated_mlp: bool = True
    tie_embeddings: bool = False


@dataclass(frozen=True)
class MistralConfig(LlamaConfig):
    """Mistral 7B (Jiang et al. 2023): LLaMA with a sliding window."""

    kind: Literal["mistral"] = "mistral"  # type: ignore[assignment]
    window: int | None = 4096


@dataclass(frozen=True)
class MixtralConfig(LlamaConfig):
    """Mixtral (Jiang et al. 2024): every feed-forward network is two of eight, weighed by their router."""

    kind: Literal["mixtral"] = "mixtral"  # type: ignore[assignment]
    experts: ExpertsConfig | None = field(
        default_factory=lambda: ExpertsConfig(experts_per_token=2, routing="dropless", normalise_weights=True)
    )


@dataclass(frozen=True)
class Qwen2Config(LlamaConfig):
    """Qwen 2 (Yang et al. 2024): LLaMA with biases of queries, keys and values."""

    kind: Literal["qwen2"] = "qwen2"  # type: ignore[assignment]
    attention_bias: Literal["all", "inputs", "none"] | None = "inputs"
    norm_epsilon: float = 1e-6


@dataclass(frozen=True)
class Qwen3Config(LlamaConfig):
    """Qwen 3 (Yang et al. 2025): LLaMA with a norm of every head's queries and keys."""

    kind: Literal["qwen3"] = "qwen3"  # type: ignore[assignment]
    query_key_norm: bool = True
    norm_epsilon: float = 1e-6
