# SPDX-License-Identifier: Apache-2.0
"""LLaVA (Liu et al. 2023): an image's patches are tokens of a text.

image - [self-attention, mlp] x L' - projector -.
                                                 v  in the place of its tokens
decoder input - embed - - - - - - - - - - - - - (+) - [causal self-attention, mlp] x L - norm - logits
"""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config.models.llava import LlavaConfig
from t5x_like.models.context import Context
from t5x_like.models.decoder_only import DecoderOnly
from t5x_like.models.layers.feed_forward import ACTIVATIONS
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.parameters import Params, call, map_specs, record_specs
from t5x_like.models.model import Batch
from t5x_like.models.vision import ImageEncoder

_VISION = 2**21  # what the key is folded with for the images, see `transformer._ENCODER`


class Projector(nn.Module):
    """States of patches [B, P, D'] to embeddings of tokens [B, P, D]."""

    inputs: int
    width: int
    layers: int

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        wide = (self.width,), ("mlp",)
        x = Linear("BPI,IM->BPM", (self.inputs,), ("embed",), *wide, use_bias=True, name="up")(x, ctx)
        if self.layers == 1:
            return x
        x = ctx.constrain(ACTIVATIONS["gelu"](x), "batch length mlp")
        return Linear("BPM,MD->BPD", *wide, (self.width,), ("embed",), use_bias=True, name="out")(x, ctx)


class Llava(DecoderOnly):
    """A decoder, an encoder of `images` float [B, (I,) height, width, channels], and the map between them."""

    config: LlavaConfig

    def __init__(self, config: LlavaConfig):
        super().__init__(config)
        self.vision = ImageEncoder(config.vision)
        self.projector = Projector(config.vision.d_model, config.d_model, 1 if config.projector == "linear" else 2)

    def specs(self) -> Params:
        vision, patches = self.config.vision, jax.ShapeDtypeStruct((1, 1, self.config.vision.d_model), jnp.float32)
        met = vision.patches / self.vision.tokens
        projector = record_specs(self.projector, patches, Context())
        projector = map_specs(lambda spec: replace(spec.on_streams("images"), met=met), projector)
        return {**super().specs(), "vision": self.vision.specs(), "projector": projector}

    def embed(self, params: Params, batch: Batch, ctx: Context) -> jax.Array:
        """Where `decoder_input_tokens` are the image token, the row's patches, image by image, in order."""
        x = super().embed(params, batch, ctx)
        if "images" not in batch:
            return x
        assert self.config.image_token is not None
        here = batch["decoder_input_tokens"] == self.config.image_token
        states = encoded(self.vision, params["vision"], batch["images"], ctx)
        patches = call(self.projector, params["projector"], states[:, self.config.vision.more_tokens :], ctx)
        patches = patches.reshape(len(x), -1, x.shape[-1]).astype(x.dtype)
        which = jnp.clip(jnp.cumsum(here, axis=1) - 1, 0, patches.shape[1] - 1)
        return jnp.where(here[..., None], jnp.take_along_axis(patches, which[..., None], axis=1), x)


def encoded(encoder: ImageEncoder, params: Params, images: jax.Array, ctx: Context) -> jax.Array:
    """Images [B, (I,) height, width, channels], each by itself, to states [B I, N, D']."""
    key = ctx.folded(_VISION)
    each = images.reshape(-1, *images.shape[-3:])
    if key is not None and key.ndim:  # one for each row
        key = jax.vmap(lambda key: jax.random.split(key, len(each) // len(images)))(key).reshape(-1)
    return encoder.encode(params, each, ctx.replace(key=key))[0]


build = Llava
