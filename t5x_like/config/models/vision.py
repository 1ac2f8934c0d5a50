# SPDX-License-Identifier: Apache-2.0
"""Encoders of images."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from t5x_like.config.checks import Count
from t5x_like.config.data import DataConfig
from t5x_like.config.models.base import Activation, NormKind, Positions, TransformerConfig
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class VisionConfig(TransformerConfig):
    """A bidirectional encoder of images (Dosovitskiy et al. 2021): patches are its tokens. Fields of
    vocabularies mean nothing here."""

    streams: ClassVar[tuple[str, ...]] = ("images",)

    norm: NormKind = "layernorm"
    norm_epsilon: float = 1e-6
    positions: Positions = "learned"
    activation: Activation = "gelu"
    use_bias: bool = True
    image_size: Count | None = None  # pixels, of both sides. None: the data's
    channels: Count | None = None  # None: the data's
    patch_size: Count = 16  # pixels, of both sides; what is left over at the right and below is not seen
    patch_bias: bool = True
    class_token: bool = True
    distillation_token: bool = False  # one more, which learns from a teacher (Touvron et al. 2021)
    # What an image becomes: the class token's state, the mean of all, or what a trained query attends to (Zhai et al.
    # 2022).
    pooling: Literal["class", "mean", "attention"] = "class"
    final_norm: bool = True  # type: ignore[misc]  # after the last layer

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and self.image_size < self.patch_size:
            raise FieldError("patch_size", f"{self.patch_size} is above image_size={self.image_size}")
        if self.pooling == "class" and not self.class_token:
            raise FieldError("pooling", "'class', but class_token is false; accepted: mean, attention")
        if self.distillation_token and not self.class_token:
            raise FieldError("distillation_token", "true, but class_token is false; accepted: false")

    @property
    def patches(self) -> int:
        """P, of one image."""
        assert self.image_size is not None
        return (self.image_size // self.patch_size) ** 2

    @property
    def more_tokens(self) -> int:
        """Those before the patches."""
        return self.class_token + self.distillation_token

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        one = self.patches + self.more_tokens  # which sees no other
        return {**by_stream, "images": by_stream["images"] * one, "images_each": one}

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        sizes: dict[str, Any] = {}
        for name in ("image_size", "channels"):
            own, theirs = getattr(self, name), getattr(data, name)
            if own not in (None, theirs):
                raise FieldError(name, f"{own}, but data.{name} is {theirs}; accepted: None, or the same")
            sizes[name] = theirs
        return sizes | dataclasses.replace(self, **sizes)._sizes()

    def _sizes(self) -> dict[str, Any]:
        return super()._sizes() | {"max_length": self.patches + self.more_tokens}


@dataclass(frozen=True)
class ViTConfig(VisionConfig):
    """ViT (Dosovitskiy et al. 2021), with a head for classes: a linear map of what an image becomes."""

    kind: Literal["vit"] = "vit"
    head: Literal[None, "classification"] = "classification"
    num_labels: Count | None = None  # of the head. None: the data's

    def resolved(self, data: DataConfig) -> dict[str, Any]:
        return super().resolved(data) | ({} if self.head is None else self._labels(data))


@dataclass(frozen=True)
class DeiTConfig(ViTConfig):
    """DeiT (Touvron et al. 2021): ViT whose second token learns from a teacher, through a head of its own."""

    kind: Literal["deit"] = "deit"  # type: ignore[assignment]
    distillation_token: bool = True
