# SPDX-License-Identifier: Apache-2.0
"""Flamingo (Alayrac et al. 2022): a language model between whose layers others look at images.

images - [self-attention, mlp] x L' - resampler: [latents look at states and latents, mlp] x L'' - norm - memory
                                                                                                            |
decoder input - embed - [(gated cross-attention, gated mlp) every n-th, causal self-attention, mlp] x L - norm - logits

A token sees the latents of the last image before it.

Differs from the paper: the encoder of images is a ViT, positions of the language model are what its config says.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config.models.flamingo import FlamingoConfig
from t5x_like.models.context import Context, Marks, MaskSpec, Memory
from t5x_like.models.decoder import Decoder
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.feed_forward import FeedForward
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, call, map_specs, record_specs
from t5x_like.models.llava import encoded
from t5x_like.models.model import Batch, Outputs
from t5x_like.models.stack import Stack
from t5x_like.models.vision import ImageEncoder

_NORM = "layernorm", 1e-5, True


class ResamplerAttention(Attention):
    """From latents; queries and keys may have a LayerNorm."""

    def _normed(self, name: str, heads: jax.Array) -> jax.Array:
        return heads if self.norm_epsilon is None else Norm(*_NORM, "head_dim", name=name)(heads)


class ResamplerBlock(nn.Module):
    """Latents x [B, R, D'] look at the states of an image, `ctx.memory`, and at themselves."""

    config: FlamingoConfig

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, cache: None) -> tuple[jax.Array, None, dict[str, jax.Array]]:
        c, width = self.config.resampler, self.config.vision.d_model
        assert ctx.memory is not None and ctx.memory.values is not None
        normed = Norm(*_NORM, name="attention_norm")(x)
        seen = jnp.concatenate([Norm(*_NORM, name="memory_norm")(ctx.memory.values), normed], axis=1)
        sizes = width, c.num_heads, c.num_heads, c.head_dim, "none"
        more: Any = {"cross": True, "norm_epsilon": 1e-5 if c.query_key_norm else None, "name": "attention"}
        y, _ = ResamplerAttention(*sizes, **more)(normed, ctx.replace(memory=Memory(seen)), None)
        x = x + y
        normed = Norm(*_NORM, name="mlp_norm")(x)
        return x + FeedForward(width, 4 * width, "relu", False, False, name="mlp")(normed, ctx), None, {}


class Flamingo(Decoder):
    """A decoder, an encoder of images, and the resampler of what that says."""

    config: FlamingoConfig

    def __init__(self, config: FlamingoConfig):
        super().__init__(config, memory="latents")
        c, width = config.resampler, config.vision.d_model
        self.vision = ImageEncoder(config.vision)
        self.resampler = Stack((ResamplerBlock(config),), c.num_layers, causal=False, memory_width=width)
        # Small, or all images' latents are alike to begin with: what is read of them is added.
        self.latents = ParamSpec((c.latents, width), ("types", "embed"), init=Normal(0.02), lookup=True)
        self.norm = Norm(*_NORM)

    def specs(self) -> Params:
        width = self.config.vision.d_model
        norm = record_specs(self.norm, jax.ShapeDtypeStruct((1, 1, width), jnp.float32))
        made = {"latents": {"embedding": self.latents}, "layers": self.resampler.specs(width), "final_norm": norm}
        made = map_specs(lambda spec: spec.on_streams("latents", "resampled"), made)
        return {**super().specs(), "vision": self.vision.specs(), "resampler": made}

    def init_cache(self, batch_size: int, length: int, dtype: Any = jnp.float32, encoder_length: int = 0) -> Params:
        """As `Decoder.init_cache`, with room for the latents of `encoder_length` images."""
        images = max(1, encoder_length)
        cache = super().init_cache(batch_size, length, dtype, images * self.config.resampler.latents)
        numbers = jnp.zeros((batch_size, images), jnp.int32)
        return {**cache, "memory_segments": numbers, "image_index": numbers[:, :1]}

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """As `DecoderOnly.run`, with `images` float [B, I, height, width, channels] (or of one each, without I),
        `images_segment_ids` int [B, I], 0 where there is none, and `decoder_image_index` int [B, T], the number, 1 to
        I, of the image that a token sees, 0 for none; absent: that of the last image token up to it. What is read
        through a cache later on sees what its row's last token saw.

        "cross_attentions" are of gated layers, [L / n, B, H, T, I R].
        """
        tokens = batch["decoder_input_tokens"]
        if cache is None or (isinstance(cache["index"], int) and cache["index"] == 0):
            known = -1 if self.config.image_token is None else self.config.image_token
            index = batch.get("decoder_image_index", jnp.cumsum(tokens == known, axis=1))
            values, numbers = self._latents(params, batch, ctx)
            kept = {"memory_segments": numbers, "image_index": index[:, -1:].astype(jnp.int32)}
            cache = cache and cache | kept
        else:
            values, numbers = None, cache["memory_segments"]
            index = jnp.broadcast_to(cache["image_index"], tokens.shape)
        segments = jnp.repeat(numbers, self.config.resampler.latents, axis=1)
        memory = Memory(values, Marks(segments), jnp.where(index > 0, index, -1))  # images that are none have number 0
        return self.decode(params, batch, ctx.replace(memory=memory), cache, want, {})

    def _latents(self, params: Params, batch: Batch, ctx: Context) -> tuple[jax.Array, jax.Array]:
        """Of all images of a row, [B, I R, D'], and which number each has, [B, I]."""
        c, rows = self.config.vision, len(batch["decoder_input_tokens"])
        images = batch.get("images", jnp.zeros((rows, c.image_size, c.image_size, c.channels)))
        states, own = encoded(self.vision, params["vision"], images, ctx), params["resampler"]
        x = jnp.broadcast_to(own["latents"]["embedding"].astype(states.dtype), (len(states), *self.latents.shape))
        inner = ctx.replace(mask=MaskSpec(causal=False), memory=Memory(states))
        x, *_ = self.resampler.apply(own["layers"], x, inner)
        x, count = call(self.norm, own["final_norm"], x), len(states) // rows
        real = batch.get("images_segment_ids", jnp.full((rows, count), "images" in batch, jnp.int32))
        return x.reshape(rows, -1, c.d_model), jnp.where(real > 0, jnp.arange(1, count + 1), 0)


build = Flamingo
