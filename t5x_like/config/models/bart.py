# SPDX-License-Identifier: Apache-2.0
"""BART."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.models.base import Activation, Positions
from t5x_like.config.models.transformer import EncoderDecoderConfig


@dataclass(frozen=True)
class BartConfig(EncoderDecoderConfig):
    """BART (Lewis et al. 2020): the Transformer of 2017 with GELU, learned positions, and a norm of what enters."""

    kind: Literal["bart"] = "bart"  # type: ignore[assignment]
    positions: Positions = "learned"
    position_offset: int = 2
    embedding_norm: bool = True
    activation: Activation = "gelu"
    scale_embeddings: bool = False
