# SPDX-License-Identifier: Apache-2.0
"""GPT."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.models.base import NormKind, NormPosition, Positions, TransformerConfig


@dataclass(frozen=True)
class GPT1Config(TransformerConfig):
    """GPT (Radford et al. 2018): norms after the residual sum, learned positions, GELU."""

    kind: Literal["gpt1"] = "gpt1"
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "post"
    positions: Positions = "learned"
    use_bias: bool = True
    dropout_rate: float = 0.1


@dataclass(frozen=True)
class GPT2Config(TransformerConfig):
    """GPT-2 (Radford et al. 2019): norms before each branch, and one more at the end."""

    kind: Literal["gpt2"] = "gpt2"
    norm: NormKind = "layernorm"
    positions: Positions = "learned"
    use_bias: bool = True
    dropout_rate: float = 0.1
