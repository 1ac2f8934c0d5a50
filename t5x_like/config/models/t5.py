# SPDX-License-Identifier: Apache-2.0
"""T5, LongT5 and Switch."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from t5x_like.config.attention import AnyAttention, TransientGlobalAttentionConfig
from t5x_like.config.models.base import Activation, NormKind, NormPosition, Positions
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.config.models.transformer import EncoderDecoderConfig


@dataclass(frozen=True)
class T5Config(EncoderDecoderConfig):
    """T5 (Raffel et al. 2020): relative position buckets, RMSNorm before each branch, no biases.

    The defaults are version 1.0's. Version 1.1 has `gated_mlp=True`, `activation="gelu_tanh"`, `tie_embeddings=False`
    and `scale_logits=False`.
    """

    scaled_by_depth: ClassVar[bool] = False
    embedding_stddev: ClassVar[float | None] = 1.0

    kind: Literal["t5"] = "t5"  # type: ignore[assignment]
    norm: NormKind = "rmsnorm"
    norm_position: NormPosition = "pre"
    norm_epsilon: float = 1e-6
    positions: Positions = "relative"
    attention_scale: float | None = 1.0
    activation: Activation = "relu"
    use_bias: bool = False
    scale_embeddings: bool = False
    scale_logits: bool = True


@dataclass(frozen=True)
class LongT5Config(T5Config):
    """LongT5 (Guo et al. 2022): T5 1.1 whose encoder looks at tokens nearby and at summaries of blocks."""

    kind: Literal["long_t5"] = "long_t5"  # type: ignore[assignment]
    activation: Activation = "gelu_tanh"
    gated_mlp: bool = True
    tie_embeddings: bool = False
    scale_logits: bool = False
    attention: AnyAttention | None = field(default_factory=lambda: TransientGlobalAttentionConfig())


@dataclass(frozen=True)
class SwitchConfig(T5Config):
    """Switch Transformer (Fedus et al. 2022): T5 of which every other feed-forward network is one of many."""

    kind: Literal["switch"] = "switch"  # type: ignore[assignment]
    experts: ExpertsConfig | None = field(
        default_factory=lambda: ExpertsConfig(num_experts=8, every=2, router_jitter=0.01)
    )
