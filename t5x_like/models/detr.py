# SPDX-License-Identifier: Apache-2.0
"""DETR (Carion et al. 2020), figure 2.

image - encoder ----------------------------------- memory
                                                       |
queries - [self-attention, cross-attention, mlp] x N - norm - logits of classes and of none
                                                            - three linear maps - box
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.config.models.detr import DetrConfig
from t5x_like.models.context import Context, MaskSpec, Memory
from t5x_like.models.layers.linear import Linear
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, call, map_specs, record_specs
from t5x_like.models.model import Applies, Batch, Outputs
from t5x_like.models.tower import Tower
from t5x_like.models.vision import ImageEncoder


class Detr(Applies):
    """An encoder of images, and a decoder of queries; `config` is resolved."""

    def __init__(self, config: DetrConfig):
        c = self.config = config
        self.encoder = ImageEncoder(c)
        self.decoder = Tower(c, c.decoder_layers, "queries", causal=False, memory="images")
        width, head = ((c.d_model,), ("embed",)), ((c.d_model,), ("head",))
        self.heads = {
            "labels": Linear("BTD,DN->BTN", *width, (1 + (c.num_labels or 1),), ("classes",), use_bias=True),
            "box_first": Linear("BTD,DE->BTE", *width, *head, use_bias=True),
            "box_second": Linear("BTD,DE->BTE", *width, *head, use_bias=True),
            "box": Linear("BTD,DN->BTN", *width, (4,), ("classes",), use_bias=True),
        }

    def specs(self) -> Params:
        c = self.config
        x = jax.ShapeDtypeStruct((1, 1, c.d_model), jnp.float32)
        queries = ParamSpec((c.num_queries, c.d_model), ("types", "embed"), init=Normal(1.0), lookup=True)
        own: Params = {"queries": {"embedding": queries}} | {n: record_specs(m, x) for n, m in self.heads.items()}
        own = map_specs(lambda spec: spec.on_streams("queries"), own)
        return {"vision": self.encoder.specs(), "decoder": self.decoder.specs(), **own}

    def run(self, params: Params, batch: Batch, ctx: Context, cache: Params | None, want: Sequence[str]) -> Outputs:
        """Reads `images` float [B, height, width, channels].

        `want` may name "logits" float32 [B, Q, 1 + labels], first of no object, "boxes" float32 [B, Q, 4], centre and
        size between 0 and 1, "hidden" [B, Q, D], and the weights of "attentions" [L, B, H, Q, Q] and
        "cross_attentions" [L, B, H, Q, P].
        """
        assert cache is None
        memory, _, _ = self.encoder.encode(params["vision"], batch["images"], ctx)
        queries = params["queries"]["embedding"].astype(ctx.policy.compute)
        x = jnp.broadcast_to(queries, (len(memory), *queries.shape))
        ctx = ctx.replace(mask=MaskSpec(causal=False), memory=Memory(memory), key=ctx.folded(2**20))
        x, _, aux, kept = self.decoder.apply(params["decoder"], ctx.constrain(x, "batch length embed"), ctx, None, want)
        outputs: Outputs = {"hidden": x, "aux": aux, **kept}
        outputs["logits"] = self._head("labels", params, x, ctx).astype(ctx.policy.softmax)
        for name in ("box_first", "box_second"):
            x = jax.nn.relu(self._head(name, params, x, ctx))
        outputs["boxes"] = jax.nn.sigmoid(self._head("box", params, x, ctx).astype(ctx.policy.softmax))
        return {name: outputs[name] for name in (*want, "aux")}

    def _head(self, name: str, params: Params, x: jax.Array, ctx: Context) -> Any:
        return call(self.heads[name], params[name], x, ctx)


build = Detr
