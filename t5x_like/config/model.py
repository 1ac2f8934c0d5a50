# SPDX-License-Identifier: Apache-2.0
"""The kinds of model."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import divisors, positive
from t5x_like.config.data import DataConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class DecoderOnlyConfig:
    """A decoder-only Transformer: GPT-2 (Radford et al. 2019) to LLaMA (Touvron et al. 2023) by its fields."""

    kind: Literal["decoder_only"] = "decoder_only"
    num_layers: int = 2
    d_model: int = 64
    num_heads: int = 4
    num_kv_heads: int | None = None  # None: num_heads; 1: multi-query (Shazeer 2019); between: grouped (Ainslie 2023)
    head_dim: int | None = None  # None: d_model / num_heads
    mlp_dim: int | None = None  # None: 4 d_model, or 8/3 d_model rounded up to a multiple of 8 when gated
    vocab_size: int | None = None  # None: the tokenizer's
    max_length: int | None = None  # rows of the learned position table; None: the data's sequence length
    norm: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    norm_position: Literal["pre", "post"] = "pre"
    norm_epsilon: float = 1e-5
    positions: Literal["rotary", "learned", "sinusoidal", "none"] = "rotary"
    rope_theta: float = 10000.0
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu_tanh"
    gated_mlp: bool = False
    use_bias: bool = False
    tie_embeddings: bool = True
    scale_embeddings: bool = False  # by sqrt(d_model), as in Vaswani et al. 2017, section 3.4
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_layers", "d_model", "num_heads"):
            positive(self, name)
        for name in ("num_kv_heads", "head_dim", "mlp_dim", "vocab_size", "max_length"):
            if getattr(self, name) is not None:
                positive(self, name)
        if self.head_dim is None and self.d_model % self.num_heads:
            raise FieldError(
                "num_heads",
                f"{self.num_heads} heads do not divide d_model={self.d_model}; accepted: "
                f"{divisors(self.d_model)}, or set head_dim",
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise FieldError(
                "num_kv_heads",
                f"{self.num_kv_heads} key/value heads do not divide num_heads={self.num_heads}; accepted: "
                f"{divisors(self.num_heads)}",
            )
        head_dim = self.head_dim or self.d_model // self.num_heads
        if self.positions == "rotary" and head_dim % 2:
            raise FieldError("head_dim", f"{head_dim} is odd; rotary positions turn pairs, so it must be even")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise FieldError("d_model", f"{self.d_model} is odd; sinusoidal positions need an even width")
        for name in ("rope_theta", "norm_epsilon"):
            if not getattr(self, name) > 0:
                raise FieldError(name, f"{getattr(self, name)} is not above 0")
        if not 0 <= self.dropout_rate < 1:
            raise FieldError("dropout_rate", f"{self.dropout_rate} is outside [0, 1)")

    def resolve(self, data: DataConfig) -> "DecoderOnlyConfig":
        """Fills in every field that is None; `data` supplies the vocabulary and the length."""
        if self.vocab_size is not None and self.vocab_size < data.vocab_size:
            raise FieldError("vocab_size", f"{self.vocab_size} is below the data's {data.vocab_size} tokens")
        if self.positions == "learned" and self.max_length is not None and self.max_length < data.sequence_length:
            raise FieldError("max_length", f"{self.max_length} is below data.sequence_length={data.sequence_length}")
        gated = -(-(8 * self.d_model) // 24) * 8
        return dataclasses.replace(
            self,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim or self.d_model // self.num_heads,
            mlp_dim=self.mlp_dim or (gated if self.gated_mlp else 4 * self.d_model),
            vocab_size=self.vocab_size or data.vocab_size,
            max_length=self.max_length or data.sequence_length,
        )


ModelConfig = DecoderOnlyConfig
