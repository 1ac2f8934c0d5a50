# SPDX-License-Identifier: Apache-2.0
"""The kinds of model."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from t5x_like.config.checks import divisors, positive
from t5x_like.config.data import DataConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class ExpertsConfig:
    """Feed-forward blocks of which every token meets only a few: a mixture of experts (Shazeer et al. 2017).

    Three ways to route. "capacity": a token asks for its likeliest experts, and an expert takes so many tokens of every
    sequence and no more (Switch, Fedus et al. 2022; GShard, Lepikhin et al. 2021). "dropless": the same without a bound
    (MegaBlocks, Gale et al. 2023). "expert_choice": every expert asks for its likeliest tokens (Zhou et al. 2022); it
    compares a token with those after it, so such a model sees the future and cannot generate token by token.

    Capacity is counted in each sequence, not over a batch as in the papers: so what a row comes to depends neither on
    the other rows nor on the mesh.
    """

    num_experts: int = 8
    experts_per_token: int = 1  # 1: Switch; 2: GShard, Mixtral; with expert_choice: how many a token meets on average
    routing: Literal["capacity", "dropless", "expert_choice"] = "capacity"
    capacity_factor: float | None = None  # slots for every choice in training; None: 1.25 with capacity, else no such
    eval_capacity_factor: float | None = None  # the same outside training; None: nothing is dropped there
    every: int = 1  # the last layer of each n has experts, the others are dense; 2: Switch-Base, 1: Mixtral
    mlp_dim: int | None = None  # of an expert; None: the model's
    load_balance_loss: float | None = None  # coefficient; None: .01, or 0 with expert_choice, where loads are even
    router_z_loss: float = 0.0  # coefficient; ST-MoE (Zoph et al. 2022) has .001
    router_jitter: float = 0.0  # in training the router's input is multiplied by noise from [1 - this, 1 + this]
    normalise_weights: bool = False  # a token's weights add up to 1, as Mixtral's do; Switch leaves them as they are

    def __post_init__(self) -> None:
        for name in ("num_experts", "experts_per_token", "every"):
            positive(self, name)
        if self.mlp_dim is not None:
            positive(self, "mlp_dim")
        if self.experts_per_token > self.num_experts:
            raise FieldError(
                "experts_per_token",
                f"{self.experts_per_token} is above num_experts={self.num_experts}; accepted: 1 to {self.num_experts}",
            )
        for name in ("capacity_factor", "eval_capacity_factor"):
            factor = getattr(self, name)
            if factor is not None and self.routing != "capacity":
                raise FieldError(name, f"{factor} with routing={self.routing!r}; accepted: only 'capacity' has one")
            if factor is not None and not factor > 0:
                raise FieldError(name, f"{factor} is not above 0")
        for name in ("load_balance_loss", "router_z_loss"):
            if (getattr(self, name) or 0) < 0:
                raise FieldError(name, f"{getattr(self, name)} is below 0")
        if self.routing == "expert_choice" and self.load_balance_loss:
            raise FieldError(
                "load_balance_loss",
                f"{self.load_balance_loss} with routing='expert_choice'; accepted: 0, for its loads are even",
            )
        if self.routing == "expert_choice" and self.normalise_weights:
            raise FieldError("normalise_weights", "True with routing='expert_choice'; accepted: False")
        if not 0 <= self.router_jitter < 1:
            raise FieldError("router_jitter", f"{self.router_jitter} is outside [0, 1)")

    def resolve(self, mlp_dim: int) -> "ExpertsConfig":
        """Fills in every field that is None and has a value; `mlp_dim` is the model's."""
        balance = self.load_balance_loss
        return dataclasses.replace(
            self,
            capacity_factor=(self.capacity_factor or 1.25) if self.routing == "capacity" else None,
            mlp_dim=self.mlp_dim or mlp_dim,
            load_balance_loss=(0.0 if self.routing == "expert_choice" else 0.01) if balance is None else balance,
        )


@dataclass(frozen=True)
class DecoderOnlyConfig:
    """A decoder-only Transformer: GPT-2 (Radford et al. 2019) to LLaMA (Touvron et al. 2023) by its fields.

    With `experts` a Switch Transformer (Fedus et al. 2022) or Mixtral (Jiang et al. 2024), as a decoder.
    """

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
    experts: ExpertsConfig | None = None  # None: every feed-forward block is dense

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
        if self.experts is not None and self.num_layers % self.experts.every:
            raise FieldError(
                "experts.every",
                f"{self.experts.every} does not divide num_layers={self.num_layers}; accepted: "
                f"{divisors(self.num_layers)}",
            )

    @property
    def expert_layers(self) -> int:
        """How many layers have experts."""
        return 0 if self.experts is None else self.num_layers // self.experts.every

    def resolve(self, data: DataConfig) -> "DecoderOnlyConfig":
        """Fills in every field that is None; `data` supplies the vocabulary and the length."""
        if self.vocab_size is not None and self.vocab_size < data.vocab_size:
            raise FieldError("vocab_size", f"{self.vocab_size} is below the data's {data.vocab_size} tokens")
        if self.positions == "learned" and self.max_length is not None and self.max_length < data.sequence_length:
            raise FieldError("max_length", f"{self.max_length} is below data.sequence_length={data.sequence_length}")
        gated = -(-(8 * self.d_model) // 24) * 8
        mlp_dim = self.mlp_dim or (gated if self.gated_mlp else 4 * self.d_model)
        return dataclasses.replace(
            self,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim or self.d_model // self.num_heads,
            mlp_dim=mlp_dim,
            vocab_size=self.vocab_size or data.vocab_size,
            max_length=self.max_length or data.sequence_length,
            experts=None if self.experts is None else self.experts.resolve(mlp_dim),
        )


ModelConfig = DecoderOnlyConfig
