# SPDX-License-Identifier: Apache-2.0
"""BART and its relatives."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.models.base import Activation, NormPosition, Positions
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


@dataclass(frozen=True)
class MBartConfig(BartConfig):
    """mBART (Liu et al. 2020): BART in many languages, with norms before each branch and after each stack.

    `decoder_start` is the token of the language to write.
    """

    kind: Literal["mbart"] = "mbart"  # type: ignore[assignment]
    norm_position: NormPosition = "pre"
    scale_embeddings: bool = True


@dataclass(frozen=True)
class MarianConfig(EncoderDecoderConfig):
    """Marian (Junczys-Dowmunt et al. 2018): the Transformer of 2017 with Swish and a bias of the logits."""

    sines_first: ClassVar[bool] = True

    kind: Literal["marian"] = "marian"  # type: ignore[assignment]
    activation: Activation = "silu"
    logits_bias: bool = True
