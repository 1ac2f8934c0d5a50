# SPDX-License-Identifier: Apache-2.0
"""Recurrent encoder and decoder."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from t5x_like.config.models.base import ModelConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class RecurrentConfig(ModelConfig):
    """What the Transformer was measured against: a recurrent encoder and decoder with attention between them.

    Sutskever et al. 2014, Bahdanau et al. 2015; the attention is Luong et al.'s 2015, after the decoder's last layer.
    """

    streams: ClassVar[tuple[str, ...]] = ("encoder", "decoder")

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru"] = "lstm"
    bidirectional: bool = True  # the encoder reads from both ends, each with half of its width
    dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bidirectional and self.d_model % 2:
            raise FieldError("d_model", f"{self.d_model} is odd; an encoder that reads from both ends halves it")

    @property
    def depth(self) -> int:
        return 2 * self.num_layers
