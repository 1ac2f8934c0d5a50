# SPDX-License-Identifier: Apache-2.0
"""CLIP (Radford et al. 2021, figure 3) and SigLIP (Zhai et al. 2023): an encoder of images and one of texts.

image - ViT - what an image becomes - [linear] - of length 1
                                                            > scale * products of all [+ bias] - logits
text - Transformer - norm - its end - linear   - of length 1
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from t5x_like.config.models.clip import ClipConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.parameters import Constant, Params, ParamSpec, call, map_specs, record_specs
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.streams import real, running
from t5x_like.models.tower import Tower
from t5x_like.models.vision import ImageEncoder
from t5x_like.models.vocabulary import Vocabulary

_TEXT = 2**20  # what the key is folded with for texts; layers of both encoders fold their own numbers into theirs


class Clip(Applies):
    """Two encoders, whose vectors are near where an image and a text belong together; `config` is resolved."""

    outputs = ("image_embeddings", "text_embeddings", "logits_per_image")

    def __init__(self, config: ClipConfig):
        c = self.config = config
        assert c.projection_dim
        self.vision, self.vocabulary = ImageEncoder(c.vision), Vocabulary(c)
        self.text = Tower(c, c.num_layers, "text", causal=c.causal)
        vector = (c.projection_dim,), ("head",)
        self.maps = {"text_projection": Linear("BD,DE->BE", (c.d_model,), ("embed",), *vector, c.map_bias)}
        if c.maps_images:
            self.maps["vision_projection"] = Linear("BD,DE->BE", (c.vision.d_model,), ("embed",), *vector)

    def specs(self) -> Params:
        c = self.config
        specs: Params = {"vision": self.vision.specs()}
        specs["text"] = {**self.vocabulary.specs("text", head=False), **self.text.entry_specs(), **self.text.specs()}
        for name, module in self.maps.items():
            own = record_specs(module, jax.ShapeDtypeStruct((1, *module.in_shape), jnp.float32))
            specs[name] = map_specs(lambda spec: spec.on_streams("targets"), own)  # met once a row
        numbers = {"scale": math.log(c.scale)} | ({} if c.bias is None else {"bias": c.bias})
        of_logits = {name: ParamSpec((), (), init=Constant(value), stream="targets") for name, value in numbers.items()}
        return {**specs, "logit_scale": of_logits}

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """Reads `images` float [B, height, width, channels], `text_tokens` int [B, T] and `text_segment_ids`, or one of
        both where nothing else is wanted.

        `want` may name "image_embeddings" and "text_embeddings" float32 [B, E], of length 1, "logits_per_image" float32
        [B, B], of each image a row; and of texts "hidden_states" [L + 1, B, T, D] and "attentions" [L, B, H, T, T], of
        images the same after "image_".
        """
        assert cache is None
        outputs: Outputs = {"aux": {}}
        wanted = {*want, *self.outputs} if "logits_per_image" in want else {*want}
        if of_images := [name.removeprefix("image_") for name in wanted if name.startswith("image_")]:
            x, _, kept = self.vision.encode(params["vision"], batch["images"], ctx, of_images)
            x = self._vector("vision_projection", params, self.vision.pooled(params["vision"], x, ctx), ctx)
            outputs |= {f"image_{name}": value for name, value in {**kept, "embeddings": x}.items()}
        if wanted & {"text_embeddings", "hidden_states", "attentions"}:
            x, kept = self._text(params["text"], batch, ctx, want)
            outputs |= {**kept, "text_embeddings": self._vector("text_projection", params, x, ctx)}
        if "logits_per_image" in want:  # every device has all texts, and the logits of its own images
            texts, numbers = ctx.constrain(outputs["text_embeddings"], "texts embed"), params["logit_scale"]
            logits = jnp.einsum("BE,SE->BS", outputs["image_embeddings"], texts, precision="highest")
            logits = logits * jnp.exp(numbers["scale"]) + numbers.get("bias", 0.0)
            outputs["logits_per_image"] = ctx.constrain(logits, "batch texts")
        return {name: outputs[name] for name in (*want, "aux")}

    def _text(self, params: Params, batch: Batch, ctx: Context, keep: Sequence[str]) -> tuple[jax.Array, Batch]:
        """The state of each text's end, [B, D], and what is kept of layers."""
        c, tokens = self.config, batch["text_tokens"]
        if c.text_pooling == "last":
            batch = {"text_tokens": tokens}
        ctx, _ = running(ctx.replace(key=ctx.folded(_TEXT)), batch, "text", causal=c.causal)
        x = self.text.enter(self.vocabulary.embed(params, tokens, ctx), ctx, params)
        x, _, _, kept = self.text.apply(params, x, ctx, None, keep)
        if c.text_pooling == "last":
            return x[:, -1], kept
        there = real(batch, "text").cumsum(1) if c.end_token is None else tokens == c.end_token
        at = (tokens if c.text_pooling == "largest" else there).argmax(1)
        return jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0], kept

    def _vector(self, name: str, params: Params, x: jax.Array, ctx: Context) -> jax.Array:
        x = call(self.maps[name], params[name], x, ctx) if name in self.maps else x
        x = x.astype(ctx.policy.softmax)
        square = jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24)
        return ctx.constrain(x * jax.lax.rsqrt(square), "batch embed")


build = Clip
