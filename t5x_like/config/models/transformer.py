# SPDX-License-Identifier: Apache-2.0
"""Encoder and decoder."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.checks import Count, WholeNumber
from t5x_like.config.models.base import Activation, NormKind, NormPosition, Positions, TransformerConfig


@dataclass(frozen=True)
class EncoderDecoderConfig(TransformerConfig):
    """The Transformer of Vaswani et al. 2017: an encoder, and a decoder that looks at what it makes of its input.

    The defaults are the paper's: sinusoidal positions, norms after the residual sum, ReLU, biases, one table for both
    vocabularies and the logits, scaled by sqrt(d_model).
    """

    streams: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    kind: Literal["transformer"] = "transformer"
    num_encoder_layers: Count | None = None  # None: num_layers
    decoder_start: WholeNumber = 0  # the token that a generated text begins after
    norm: NormKind = "layernorm"
    norm_position: NormPosition = "post"
    positions: Positions = "sinusoidal"
    activation: Activation = "relu"
    use_bias: bool = True
    scale_embeddings: bool = True
    dropout_rate: float = 0.1

    @property
    def encoder_layers(self) -> int:
        return self.num_encoder_layers or self.num_layers

    @property
    def stacks(self) -> tuple[int, ...]:
        return self.encoder_layers, self.num_layers
