# SPDX-License-Identifier: Apache-2.0
"""ViT (Dosovitskiy et al. 2021) and DeiT (Touvron et al. 2021), and the encoder of images that other families share.

image - patches - linear - [class] [distillation] tokens - positions - [self-attention, mlp] x L - norm - hidden
    hidden of [class], or the mean of all, or what a trained query attends to    - pooled - logits of classes
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config.models.vision import VisionConfig, ViTConfig
from t5x_like.models.context import Context, MaskSpec, Memory
from t5x_like.models.layers.attention import Attention
from t5x_like.models.layers.embeddings import dropout
from t5x_like.models.layers.feed_forward import FeedForward
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, call, map_specs, parameter, record_specs
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.tower import Tower

TOKENS = ("class_token", "distillation_token")  # those before the patches, in order


class ImageEncoder:
    """Images to the states of their patches, and of the tokens before them."""

    def __init__(self, config: VisionConfig, stream: str = "images"):
        """`stream` is what accounting calls the tokens."""
        c = self.config = config
        assert c.channels
        self.stream, self.tokens = stream, c.patches + c.more_tokens  # N, of one image
        self.tower = Tower(c, c.num_layers, stream, causal=False)
        pixels = ((c.channels * c.patch_size**2,), ("pixels",)), ((c.d_model,), ("embed",))
        self.patch = Linear("BPI,ID->BPD", *pixels[0], *pixels[1], c.patch_bias)
        self.pool = AttentionPooling(c)

    def specs(self) -> Params:
        """{"patch_embedding", "class_token", "position_embedding", "layers", "final_norm", "pooling", ...}."""
        c = self.config
        states = jax.ShapeDtypeStruct((1, 1, c.d_model), jnp.float32)
        own: Params = {"patch_embedding": record_specs(self.patch, jax.ShapeDtypeStruct((1, 1, 1), jnp.float32))}
        own = map_specs(lambda spec: replace(spec, met=c.patches / self.tokens), own)
        for name in TOKENS:
            if getattr(c, name):
                own[name] = {"embedding": ParamSpec((1, c.d_model), ("types", "embed"), init=Normal(0.02), lookup=True)}
        if c.pooling == "attention":
            pool = record_specs(self.pool, states, Context(mask=MaskSpec(causal=False)))
            once = 1 / self.tokens  # what the query meets, of what others do
            own["pooling"] = map_specs(lambda s: replace(s, met=once) if s.stream == "own" else s, pool)
        own = map_specs(lambda spec: spec.on_streams(self.stream, self.stream), own)
        return {**own, **self.tower.entry_specs(), **self.tower.specs()}

    def patches(self, images: jax.Array) -> jax.Array:
        """[B, height, width, channels] to [B, P, pixels]: row by row, and of each patch channel by channel."""
        size = self.config.patch_size
        images = images[:, : images.shape[1] // size * size, : images.shape[2] // size * size]
        batch, height, width, channels = images.shape
        x = images.reshape(batch, height // size, size, width // size, size, channels)
        return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, -1, channels * size * size)

    def enter(self, params: Params, images: jax.Array, ctx: Context, kept: jax.Array | None = None) -> Any:
        """What enters the first block, [B, N, D], and its context; `kept`, int [B, K], says which patches go in."""
        assert self.config.image_size is not None
        assert images.shape[1:3] == (self.config.image_size,) * 2, images.shape
        patches = self.patches(images.astype(ctx.policy.compute))
        positions = jnp.broadcast_to(jnp.arange(self.tokens), (len(images), self.tokens))
        if kept is not None:
            patches = jnp.take_along_axis(patches, kept[..., None], axis=1)
            before = self.config.more_tokens
            positions = jnp.concatenate([positions[:, :before], kept + before], axis=1)
        x = call(self.patch, params["patch_embedding"], patches, ctx)
        first = [params[name]["embedding"].astype(x.dtype) for name in TOKENS if name in params]
        x = jnp.concatenate([*(jnp.broadcast_to(one, (len(x), *one.shape)) for one in first), x], axis=1)
        ctx = ctx.replace(positions=positions, mask=MaskSpec(causal=False), memory=None)
        return self.tower.enter(x, ctx, params), ctx

    def encode(
        self, params: Params, images: jax.Array, ctx: Context, keep: Sequence[str] = ()
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        """States [B, N, D] after the last layer and its norm, what layers have to say, and what is kept of them."""
        x, ctx = self.enter(params, images, ctx)
        return self.run(params, x, ctx, keep)

    def run(self, params: Params, x: jax.Array, ctx: Context, keep: Sequence[str] = ()) -> Any:
        """The same of what `enter` gives."""
        x, _, aux, kept = self.tower.apply(params, x, ctx, None, keep)
        return x, aux, kept

    def pooled(self, params: Params, x: jax.Array, ctx: Context) -> jax.Array:
        """What an image becomes: states [B, N, D] to [B, D]."""
        kind = self.config.pooling
        if kind == "attention":
            return call(self.pool, params["pooling"], x, ctx.replace(mask=MaskSpec(causal=False)))
        return x[:, 0] if kind == "class" else x.mean(1, dtype=jnp.float32).astype(x.dtype)


POSITIONS = "vision/position_embedding/embedding"


def resized_positions(table: jax.Array, patches: int, before: int) -> jax.Array:
    """A table of positions [before + P, D] for another number of patches: its square grid is interpolated linearly in
    both directions, the first rows stay as they are (Dosovitskiy et al. 2021, section 3.2)."""
    old, new = math.isqrt(len(table) - before), math.isqrt(patches)
    grid = table[before:].reshape(old, old, -1)
    grid = jax.image.resize(grid, (new, new, grid.shape[-1]), "linear", antialias=False)
    return jnp.concatenate([table[:before], grid.reshape(patches, -1)])


class AttentionPooling(nn.Module):
    """What one trained query attends to, and a residual network on it (Zhai et al. 2022, appendix; Lee et al. 2019)."""

    config: VisionConfig

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> jax.Array:
        c = self.config
        assert c.num_heads and c.head_dim and c.mlp_dim
        query = parameter(self, "query", ParamSpec((1, c.d_model), ("types", "embed"), init=Normal(0.02), lookup=True))
        query = jnp.broadcast_to(query.astype(x.dtype), (len(x), 1, c.d_model))
        ctx = ctx.replace(memory=Memory(x))
        sizes = c.d_model, c.num_heads, c.num_heads, c.head_dim, "all" if c.use_bias else "none"
        y, _ = Attention(*sizes, cross=True, name="attention")(query, ctx, None)
        normed = Norm(c.norm, c.norm_epsilon, c.use_bias, name="mlp_norm")(y)
        return (y + FeedForward(c.d_model, c.mlp_dim, c.activation, False, c.use_bias, name="mlp")(normed, ctx))[:, 0]


class ViT(Applies):
    """An encoder of images with a head; `config` is resolved."""

    def __init__(self, config: ViTConfig):
        c = self.config = config
        self.encoder = ImageEncoder(c)
        self.labels = Linear("BD,DN->BN", (c.d_model,), ("embed",), (c.num_labels or 2,), ("classes",), use_bias=True)

    def specs(self) -> Params:
        c = self.config
        specs: Params = {"vision": self.encoder.specs()}
        if c.head is not None:
            labels = record_specs(self.labels, jax.ShapeDtypeStruct((1, c.d_model), jnp.float32))
            once = map_specs(lambda spec: replace(spec.on_streams("images"), met=1 / self.encoder.tokens), labels)
            specs |= {"labels": once} | ({"distillation_labels": once} if c.distillation_token else {})
        return specs

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """Reads `images` float [B, height, width, channels].

        `want` may name "logits" float32 [B, labels], "hidden" [B, N, D], "pooled" [B, D], "hidden_states" [L + 1, B, N,
        D], "attentions" [L, B, H, N, N]. With a distillation token "logits" are the mean of both heads', which are
        "class_logits" and "distillation_logits".
        """
        assert cache is None
        x, aux, kept = self.encoder.encode(params["vision"], batch["images"], ctx, want)
        outputs: Outputs = {"hidden": x, "aux": aux, **kept}
        outputs["pooled"] = self.encoder.pooled(params["vision"], x, ctx)
        if "labels" in params:
            outputs["logits"] = self._labels(params["labels"], outputs["pooled"], ctx)
            if "distillation_labels" in params:
                outputs["class_logits"] = outputs["logits"]
                outputs["distillation_logits"] = self._labels(params["distillation_labels"], x[:, 1], ctx)
                outputs["logits"] = (outputs["class_logits"] + outputs["distillation_logits"]) / 2
        return {name: outputs[name] for name in (*want, "aux")}

    def _labels(self, params: Params, x: jax.Array, ctx: Context) -> jax.Array:
        c = self.config
        x = dropout(x, c.dropout_rate, ctx.folded(c.num_layers + 1), ctx.train)
        return call(self.labels, params, x, ctx).astype(ctx.policy.softmax)


build = ViT
