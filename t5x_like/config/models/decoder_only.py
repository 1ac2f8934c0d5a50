# SPDX-License-Identifier: Apache-2.0
"""Decoders."""

from dataclasses import dataclass
from typing import Literal

from t5x_like.config.models.base import DecoderConfig


@dataclass(frozen=True)
class DecoderOnlyConfig(DecoderConfig):
    """A decoder-only Transformer: GPT-2 (Radford et al. 2019) to LLaMA (Touvron et al. 2023) by its fields.

    With `experts` a Switch Transformer (Fedus et al. 2022) or Mixtral (Jiang et al. 2024), as a decoder.
    """

    kind: Literal["decoder_only"] = "decoder_only"
