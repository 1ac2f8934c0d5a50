# SPDX-License-Identifier: Apache-2.0
"""MAE (He et al. 2022), figure 1: most patches of an image are hidden, and painted from the others.

image - a quarter of its patches - encoder - linear - with a mask token in each hidden place - decoder - pixels
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from t5x_like.config.models.mae import MaeConfig
from t5x_like.models.context import Context
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, call, map_specs, record_specs
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.tower import Tower
from t5x_like.models.vision import ImageEncoder


class Mae(Applies):
    """An encoder of images under the name that ViT's has, and a decoder; `config` is resolved."""

    def __init__(self, config: MaeConfig):
        c = self.config = config
        assert c.channels
        self.encoder = ImageEncoder(c, "visible")
        self.decoder = Tower(c.decoder, c.decoder_layers, "images", causal=False)
        wide, narrow = ((c.d_model,), ("embed",)), ((c.decoder_width,), ("embed",))
        self.embed = Linear("BTE,ED->BTD", wide[0], ("head",), *narrow, use_bias=True)
        pixels = (c.patch_size**2 * c.channels,), ("pixels",)
        self.pixels = Linear("BTD,DI->BTI", *narrow, *pixels, use_bias=True)

    def specs(self) -> Params:
        c = self.config
        wide, narrow = (jax.ShapeDtypeStruct((1, 1, n), jnp.float32) for n in (c.d_model, c.decoder_width))
        embed = map_specs(lambda spec: spec.on_streams("visible"), record_specs(self.embed, wide))
        pixels = map_specs(lambda spec: spec.on_streams("images"), record_specs(self.pixels, narrow))
        mask = ParamSpec((1, c.decoder_width), ("types", "embed"), init=Normal(0.02), lookup=True, stream="images")
        own = {"embedding_map": embed, "mask_token": {"embedding": mask}, "pixels": pixels}
        return {
            "vision": self.encoder.specs(),
            "decoder": {**own, **self.decoder.entry_specs(), **self.decoder.specs()},
        }

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """Reads `images` float [B, height, width, channels] and, for which patches are hidden, `images_seed` uint32
        [B, 2] of each, or `images_order` int [B, P], whose first are seen.

        `want` may name "pixels" float32 [B, P, pixels], what each patch is painted like, "patches" [B, P, pixels], what
        it should be, "hidden_patches" float32 [B, P], 1 of those, "hidden" [B, N, D] of the encoder.
        """
        assert cache is None
        c, p = self.config, params["decoder"]
        order = batch["images_order"] if "images_order" in batch else _drawn(batch["images_seed"], c.patches)
        places = jnp.argsort(order, axis=1)  # of each patch among those in order
        x, ctx_v = self.encoder.enter(params["vision"], batch["images"], ctx, order[:, : c.visible])
        x, aux, _ = self.encoder.run(params["vision"], x, ctx_v)
        outputs: Outputs = {"hidden": x, "aux": aux}
        y, before = call(self.embed, p["embedding_map"], x, ctx), c.more_tokens
        mask = p["mask_token"]["embedding"].astype(y.dtype)
        masks = jnp.broadcast_to(mask, (len(y), c.patches - c.visible, c.decoder_width))
        patches = jnp.take_along_axis(jnp.concatenate([y[:, before:], masks], axis=1), places[..., None], axis=1)
        y = jnp.concatenate([y[:, :before], patches], axis=1)
        positions = jnp.broadcast_to(jnp.arange(y.shape[1]), y.shape[:2])
        ctx = ctx_v.replace(positions=positions, key=ctx.folded(2**20))
        y = self.decoder.apply(p, self.decoder.enter(y, ctx, p), ctx)[0]
        outputs["pixels"] = call(self.pixels, p["pixels"], y[:, before:], ctx).astype(ctx.policy.softmax)
        outputs["patches"] = self._targets(batch["images"].astype(jnp.float32))
        outputs["hidden_patches"] = (places >= c.visible).astype(jnp.float32)
        return {name: outputs[name] for name in (*want, "aux")}

    def _targets(self, images: jax.Array) -> jax.Array:
        """Of each patch pixel by pixel, and of each its channels."""
        c = self.config
        x = self.encoder.patches(images)
        x = x.reshape(*x.shape[:2], c.channels, -1).swapaxes(2, 3).reshape(x.shape)
        if not c.normalised:
            return x
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-6)


def _drawn(seeds: jax.Array, patches: int) -> jax.Array:
    return jax.vmap(lambda seed: jax.random.permutation(jax.random.wrap_key_data(seed), patches))(seeds)


build = Mae
