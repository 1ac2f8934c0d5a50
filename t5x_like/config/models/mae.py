# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoders of images."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from t5x_like.config.checks import Count, Fraction
from t5x_like.config.models.vision import VisionConfig


@dataclass(frozen=True)
class MaeConfig(VisionConfig):
    """MAE (He et al. 2022): an encoder of a few patches, and a small decoder that paints the others.

    Differs from the paper: positions are learned, not fixed sines.
    """

    kind: Literal["mae"] = "mae"
    mask_rate: Fraction = 0.75
    decoder_width: Count = 512
    decoder_layers: Count = 8
    decoder_heads: Count = 16
    decoder_mlp_dim: Count | None = None  # None: 4 decoder_width
    normalised: bool = True  # each patch's pixels are predicted less their mean, over their standard deviation

    @property
    def stacks(self) -> tuple[int, ...]:
        return self.num_layers, self.decoder_layers

    @property
    def visible(self) -> int:
        """Patches that the encoder sees."""
        return max(1, int(self.patches * (1 - self.mask_rate)))

    @property
    def decoder(self) -> VisionConfig:
        """Of the decoder's tower."""
        sizes: dict[str, Any] = {
            "d_model": self.decoder_width,
            "num_heads": self.decoder_heads,
            "mlp_dim": self.decoder_mlp_dim,
        }
        return dataclasses.replace(self, **sizes, num_kv_heads=None, head_dim=None).filled()

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        seen = by_stream["images"] * (self.visible + self.more_tokens)
        return {**super().lengths(by_stream), "visible": seen}
