# SPDX-License-Identifier: Apache-2.0
"""Models that find objects in images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from t5x_like.config.checks import Count
from t5x_like.config.data import DataConfig
from t5x_like.config.models.vision import VisionConfig


@dataclass(frozen=True)
class DetrConfig(VisionConfig):
    """DETR (Carion et al. 2020): queries, of which each finds an object or none, look at what an encoder sees.

    Differs from the paper: the encoder is a ViT's, patches in the place of a convolutional network's features (as in
    Fang et al. 2021), and a query is added where it enters, not in every layer.
    """

    head: ClassVar[str] = "detection"

    kind: Literal["detr"] = "detr"
    class_token: bool = False
    pooling: Literal["class", "mean", "attention"] = "mean"
    num_queries: Count = 100
    decoder_layers: Count = 6
    num_labels: Count | None = None  # of objects. None: the data's

    @property
    def stacks(self) -> tuple[int, ...]:
        return self.num_layers, self.decoder_layers

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        return {**super().lengths(by_stream), "queries": by_stream["images"] * self.num_queries}

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        return super().resolved(data) | self._labels(data)
