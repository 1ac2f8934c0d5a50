# SPDX-License-Identifier: Apache-2.0
"""LLaVA, and what decoders that see images share."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from t5x_like.config.data import DataConfig
from t5x_like.config.models.clip import ClipVisionConfig
from t5x_like.config.models.llama import LlamaConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class ImageFeaturesConfig(ClipVisionConfig):
    """CLIP's encoder of images as other models read it: its last layer's states. Those above what is read are left
    out."""

    final_norm: ClassVar[bool] = False  # type: ignore[misc]


@dataclass(frozen=True)
class SeesImagesConfig(LlamaConfig):
    """A decoder of text with images in it; fields outside `vision` are the language model's."""

    streams: ClassVar[tuple[str, ...]] = ("images", "decoder")

    kind: str = ""  # type: ignore[assignment]
    vision: ImageFeaturesConfig = field(default_factory=ImageFeaturesConfig)
    image_token: int | None = None  # what stands in a text where an image is. None: the data's

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention is not None:
            raise FieldError("attention.kind", f"{self.attention.kind!r} is not known with images; accepted: None")

    @property
    def tokens_per_image(self) -> int:
        """How many tokens of a text one image is."""
        raise NotImplementedError

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        return {**by_stream, **self.vision.lengths({"images": by_stream["images"]})}

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        theirs = getattr(data, "image_token", None)
        if self.image_token is not None and theirs not in (None, self.image_token):
            both = f"{self.image_token}, but the data's tokenizer has {theirs}"
            raise FieldError("image_token", f"{both}; accepted: None")
        try:
            vision = self.vision.resolve(data)
        except FieldError as error:
            raise FieldError(f"vision.{error.field}", str(error)) from None
        token = theirs if self.image_token is None else self.image_token
        return LlamaConfig.resolved(dataclasses.replace(self, vision=vision), data) | {"image_token": token}

    def _sizes(self) -> dict[str, Any]:
        return super()._sizes() | {"vision": self.vision.filled()}


@dataclass(frozen=True)
class LlavaConfig(SeesImagesConfig):
    """LLaVA 1.5 (Liu et al. 2023): what an encoder of images says of each patch is mapped to a token's embedding."""

    kind: Literal["llava"] = "llava"
    projector: Literal["linear", "mlp"] = "mlp"  # one map, as in the first LLaVA, or two with a GELU between

    @property
    def tokens_per_image(self) -> int:
        return self.vision.patches
