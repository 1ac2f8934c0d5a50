# SPDX-License-Identifier: Apache-2.0
"""Flamingo."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from t5x_like.config.checks import Checked, Count, WholeNumber
from t5x_like.config.models.llava import SeesImagesConfig


@dataclass(frozen=True)
class ResamplerConfig(Checked):
    """What makes a few latent tokens of all that an encoder says of an image (Alayrac et al. 2022, figure 5)."""

    latents: Count = 64  # R, of one image
    num_layers: Count = 6
    num_heads: Count = 16
    head_dim: Count = 96
    query_key_norm: bool = False  # a LayerNorm of every head's queries and keys


@dataclass(frozen=True)
class FlamingoConfig(SeesImagesConfig):
    """Flamingo (Alayrac et al. 2022): layers between those of a language model look at the images that have come.

    Gated layers have the heads, the norms and the feed-forward networks that the language model's have, as in IDEFICS;
    the paper's have squared ReLUs.
    """

    kind: Literal["flamingo"] = "flamingo"
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    cross_every: Count = 1  # type: ignore[misc]  # a gated layer stands before the first of each n
    cross_gated: ClassVar[bool] = True
    cross_query_key_norm: bool = False  # type: ignore[misc]  # an RMSNorm of gated layers' queries and keys
    more_vocabulary: WholeNumber = (
        0  # of the vocabulary's tokens, the last, which have tables of their own in IDEFICS' files
    )

    @property
    def tokens_per_image(self) -> int:
        return 1

    @property
    def memory_width(self) -> int:
        return self.vision.d_model

    def lengths(self, by_stream: Mapping[str, float]) -> dict[str, float]:
        found, images, latents = super().lengths(by_stream), by_stream["images"], self.resampler.latents
        found |= {"latents": images * latents, "latents_each": latents}  # a token sees one image
        each = found["images_each"] + latents
        return found | {"resampled": images * each, "resampled_each": each}
