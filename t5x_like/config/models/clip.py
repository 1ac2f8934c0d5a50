# SPDX-License-Identifier: Apache-2.0
"""Encoders of images and of texts whose vectors are compared: CLIP and SigLIP."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from t5x_like.config.checks import Count, WholeNumber
from t5x_like.config.data import DataConfig
from t5x_like.config.models.base import Activation, NormKind, Positions, TransformerConfig
from t5x_like.config.models.vision import VisionConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class ClipVisionConfig(VisionConfig):
    """CLIP's encoder of images."""

    norm_epsilon: float = 1e-5
    activation: Activation = "gelu_quick"
    patch_bias: bool = False
    embedding_norm: bool = True


@dataclass(frozen=True)
class SiglipVisionConfig(VisionConfig):
    """SigLIP's."""

    activation: Activation = "gelu_tanh"
    class_token: bool = False
    pooling: Literal["class", "mean", "attention"] = "attention"


@dataclass(frozen=True)
class ClipConfig(TransformerConfig):
    """CLIP (Radford et al. 2021). The fields of a Transformer are those of the encoder of texts.

    A text is the state of its end: the first `end_token`, or where that is None its last real token; of the token with
    the "largest" number, which the end has in OpenAI's vocabulary; or of the "last" of the row, padding or not: then
    padding is read like text, as in SigLIP.
    """

    streams: ClassVar[tuple[str, ...]] = ("images", "text")
    embedding_stddev: ClassVar[float | None] = 0.02
    maps_images: ClassVar[bool] = True  # whether a linear map makes the vector of an image
    map_bias: ClassVar[bool] = False  # of that of a text
    scale: ClassVar[float] = 1 / 0.07  # of the products of vectors, to begin with
    bias: ClassVar[float | None] = None  # which is added to them; None: none

    kind: Literal["clip"] = "clip"
    norm: NormKind = "layernorm"
    positions: Positions = "learned"
    activation: Activation = "gelu_quick"
    use_bias: bool = True
    causal: bool = True  # whether a token of a text sees only those before it
    text_pooling: Literal["end", "largest", "last"] = "end"
    end_token: WholeNumber | None = None
    projection_dim: Count | None = None  # of the vectors. None: vision.d_model
    vision: ClipVisionConfig = field(default_factory=lambda: ClipVisionConfig())

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.maps_images and self.projection_dim not in (None, self.vision.d_model):
            given = f"{self.projection_dim}, but no map leads there from vision.d_model={self.vision.d_model}"
            raise FieldError("projection_dim", f"{given}; accepted: None, or the same")
        for name in ("attention", "experts"):
            if getattr(self, name) or getattr(self.vision, name):
                raise FieldError(name, f"is given, which model.kind={self.kind!r} knows nothing of; accepted: None")

    @property
    def depth(self) -> int:
        return self.num_layers + self.vision.num_layers

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        return self.vision.lengths(by_stream)

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        try:
            vision = self.vision.resolve(data)
        except FieldError as error:
            raise FieldError(f"vision.{error.field}", str(error)) from None
        return TransformerConfig.resolved(dataclasses.replace(self, vision=vision), data)

    def _sizes(self) -> dict[str, Any]:
        more = {"vision": self.vision.filled(), "projection_dim": self.projection_dim or self.vision.d_model}
        return super()._sizes() | more


@dataclass(frozen=True)
class SiglipConfig(ClipConfig):
    """SigLIP (Zhai et al. 2023), whose products have a bias, for a loss of each pair by itself."""

    maps_images: ClassVar[bool] = False
    map_bias: ClassVar[bool] = True
    scale: ClassVar[float] = 10.0
    bias: ClassVar[float | None] = -10.0

    kind: Literal["siglip"] = "siglip"  # type: ignore[assignment]
    norm_epsilon: float = 1e-6
    activation: Activation = "gelu_tanh"
    causal: bool = False
    text_pooling: Literal["end", "largest", "last"] = "last"
    vision: SiglipVisionConfig = field(default_factory=lambda: SiglipVisionConfig())  # type: ignore[assignment]
