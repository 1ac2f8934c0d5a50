# SPDX-License-Identifier: Apache-2.0
"""Experts in the place of a feed-forward block: a router sends every token to a few of many feed-forward networks.

    y_t = sum over the experts e that token t is sent to of  p_t,e FFN_e(x_t),      p_t = softmax(x_t W_router)

Shazeer et al. 2017 and, in this form, Switch Transformers (Fedus et al. 2022). A choice that finds its expert full is
dropped: it adds nothing, and the token passes by on the residual branch. Which token goes where is in `routing.py`.

On a mesh the experts lie on `expert`. Between two expert layers that axis carries batch, so tokens go to their experts
and come back by two all-to-alls over it, each of which moves E C D elements a row. Without a bound on what an expert
takes such shapes would depend on the data: all tokens of the axis come to all its devices, each computes what its own
experts are asked for, and the sums are scattered back.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config import ExpertsConfig
from t5x_like.models import remat
from t5x_like.models.context import Context
from t5x_like.models.layers import routing
from t5x_like.models.layers.embeddings import draw
from t5x_like.models.layers.feed_forward import ACTIVATIONS
from t5x_like.models.layers.linear import Linear, project, project_groups, whole
from t5x_like.models.layers.parameters import Normal, Params, ParamSpec, parameter

Aux = dict[str, jax.Array]
AXES = {"up": ("embed", "mlp"), "gate": ("embed", "mlp"), "out": ("mlp", "embed")}


class Experts(nn.Module):
    """`FeedForward`, E times, and a router; `config` is resolved."""

    config: ExpertsConfig
    width: int
    activation: str
    gated: bool
    use_bias: bool
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context) -> tuple[jax.Array, Aux]:
        """Maps [B, T, D] to the same shape; padding, tokens of segment 0, gets 0, takes no slot and counts in nothing.

        Returns also what the router is judged by, float32 scalars: "load_balance_loss" and "router_z_loss" without
        their coefficients, "busiest_expert" (its share of the choices, 1 for an even share) and "dropped" (the share of
        choices dropped; with expert choice, of tokens that no expert takes).
        """
        c = self.config
        params = self._parameters()
        segments = ctx.mask.q.segments
        real = None if segments is None else ctx.constrain(segments, "batch kv_length") > 0
        logits = self._router(x, ctx)
        if c.routing == "expert_choice":
            return self._chosen_by_experts(x, logits, real, params, ctx)
        probabilities = jax.nn.softmax(logits, axis=-1)
        experts, weights = routing.choose(probabilities, c.experts_per_token, c.normalise_weights)
        if real is not None:
            experts = jnp.where(real[..., None], experts, c.num_experts)
        experts = ctx.constrain(experts, "batch kv_length router")
        factor = c.capacity_factor if ctx.train else c.eval_capacity_factor
        if factor is None and c.slots is None:
            y = self._without_bound(x, experts, weights, params, ctx)
            dropped = jnp.zeros((), jnp.float32)
        else:
            size = routing.capacity(factor, c.experts_per_token, x.shape[1], c.num_experts, c.slots)
            slots = routing.assign(experts, c.num_experts, size)
            slots = jax.tree.map(lambda table: ctx.constrain(table, "batch kv_length"), slots)
            held = self._in_slots(routing.dispatch(ctx.constrain(x, "batch kv_length embed"), slots), params, ctx)
            y = routing.combine(held, weights, slots)
            granted = (slots.slot_of < c.num_experts * size).sum()
            dropped = 1 - granted / jnp.maximum(_count(real, x) * c.experts_per_token, 1.0)
        aux = _judged(logits, probabilities, routing.loads(experts, c.num_experts), real)
        return y.astype(x.dtype), aux | {"dropped": dropped}

    def _parameters(self) -> Params:
        """{"up": {"kernel" [E, D, M], ...}, ...}; "bias" [E, M] or [E, D] where there is one."""
        number, params = self.config.num_experts, {}
        assert self.config.mlp_dim is not None
        sizes = {"embed": self.width, "mlp": self.config.mlp_dim}
        for name, (into, out) in AXES.items():
            if name != "gate" or self.gated:
                stddev = (self.out_scale if name == "out" else 1.0) / math.sqrt(sizes[into])
                shape = (number, sizes[into], sizes[out])
                met = self.config.experts_per_token / number
                kernel = ParamSpec(shape, ("expert", into, out), (into,), (out,), Normal(stddev), met=met)
                bias = ParamSpec((number, sizes[out]), ("expert", out), met=met) if self.use_bias else None
                params[name] = _OfExperts(kernel, bias, name=name)()
        return params

    def _router(self, x: jax.Array, ctx: Context) -> jax.Array:
        """Logits float32 [B, T, E], all of a row's on each device that has any of the row."""
        x = x.astype(ctx.policy.softmax)
        noise = self.config.router_jitter
        if ctx.train and noise:
            key = ctx.folded(2)  # the block's dropout has 0 and 1
            if key is None:
                raise ValueError("a router's jitter in training needs a key: model.apply(..., key=key, train=True)")
            x = x * draw(lambda key, shape: jax.random.uniform(key, shape, x.dtype, 1 - noise, 1 + noise), key, x.shape)
        number = self.config.num_experts
        router = Linear("BTD,DE->BTE", (self.width,), ("embed",), (number,), ("router",), name="router")
        with jax.default_matmul_precision("highest"):  # a TPU's default would round float32 operands to bfloat16
            logits = router(x, ctx)
        return ctx.constrain(ctx.constrain(logits, "batch length router"), "batch kv_length router")

    def _feed(self, x: jax.Array, product: Callable[[jax.Array, str], jax.Array]) -> jax.Array:
        activate = ACTIVATIONS[self.activation]
        h = product(x, "up")
        h = activate(product(x, "gate")) * h if self.gated else activate(h)
        return product(h, "out")

    def _in_slots(self, x: jax.Array, params: Params, ctx: Context) -> jax.Array:
        """What the experts make of their slots: [B, E C, D] to the same shape, by two all-to-alls on a mesh. Devices
        that share a length share its slots, filled up so that they divide."""
        batch, number = x.shape[0], self.config.num_experts
        x = ctx.constrain(x.reshape(batch, number, -1, x.shape[-1]), "batch router kv_length embed")
        size, parts = x.shape[2], ctx.length_parts
        x = jnp.pad(x, [(0, 0), (0, 0), (0, -size % parts), (0, 0)])
        x = ctx.constrain(x, "batch router capacity embed")
        x = ctx.constrain(x, "expert_batch expert capacity embed")

        def product(x: jax.Array, name: str) -> jax.Array:
            pattern = "BECM,EMD->BECD" if name == "out" else "BECD,EDM->BECM"
            y = remat.product(project(x, params[name]["kernel"], pattern, one_cpu=ctx.one_cpu))
            if "bias" in params[name]:
                y = y + params[name]["bias"][:, None].astype(y.dtype)
            return ctx.constrain(y, f"expert_batch expert capacity {AXES[name][1]}")

        y = ctx.constrain(self._feed(x, product), "batch router capacity embed")
        y = ctx.constrain(y, "batch router kv_length embed")[:, :, :size]
        return y.reshape(batch, number * size, -1)

    def _chosen_by_experts(
        self, x: jax.Array, logits: jax.Array, real: jax.Array | None, params: Params, ctx: Context
    ) -> tuple[jax.Array, Aux]:
        probabilities = jax.nn.softmax(logits, axis=-1)
        c, (batch, length) = self.config, x.shape[:2]
        size = routing.capacity(1.0, c.experts_per_token, length, c.num_experts)
        tokens, weights = routing.expert_choice(probabilities, real, size)
        held = self._in_slots(routing.tokens_at(ctx.constrain(x, "batch kv_length embed"), tokens), params, ctx)
        y = routing.add_to_tokens(held, tokens, weights, length)
        taken = tokens < length
        aux = _judged(logits, probabilities, taken.sum(-1), real)
        met = routing.add_to_tokens(jnp.ones((batch, taken[0].size, 1)), tokens, taken, length)
        dropped = 1 - (met > 0).sum() / jnp.maximum(_count(real, x), 1.0)
        return y.astype(x.dtype), aux | {"dropped": dropped}

    def _without_bound(
        self, x: jax.Array, experts: jax.Array, weights: jax.Array, params: Params, ctx: Context
    ) -> jax.Array:
        """Every choice granted, as products with groups of rows of any size (Gale et al. 2023)."""
        groups = "NED,EDM->NEM"
        named = {
            f"{name}/{kind}": whole(leaf, groups, x.dtype)
            for name, each in params.items()
            for kind, leaf in each.items()
        }
        layout = ctx.layout
        over = () if layout is None else layout.mesh_axes("expert")
        inside = () if layout is None else layout.mesh_axes("mlp")

        def on_device(x: jax.Array, experts: jax.Array, weights: jax.Array, *arrays: jax.Array) -> jax.Array:
            """This device's experts, and its part of their width, for all tokens of its `expert` axis."""
            mine = dict(zip(named, arrays, strict=True))
            number = mine["up/kernel"].shape[0]
            if over:
                x, experts, weights = (jax.lax.all_gather(each, over, tiled=True) for each in (x, experts, weights))
                experts = experts - jax.lax.axis_index(over) * number
            slots, sizes, owner = routing.sort_by_expert(experts, number)
            owned = (owner < number)[:, None]

            def product(rows: jax.Array, name: str) -> jax.Array:
                y = remat.product(project_groups(rows, mine[f"{name}/kernel"], sizes))
                if f"{name}/bias" in mine:
                    once = name != "out" or not inside or jax.lax.axis_index(inside) == 0
                    bias = mine[f"{name}/bias"][jnp.minimum(owner, number - 1)]
                    y = y + jnp.where(once, bias, 0).astype(y.dtype)
                return y

            # What is done with rows past all groups differs between machines; both ends are cut off from them.
            rows = routing.dispatch(x.reshape(1, -1, x.shape[-1]), slots)[0]
            held = jnp.where(owned, self._feed(jnp.where(owned, rows, 0), product), 0)
            flat = weights.reshape(1, -1, weights.shape[-1])
            y = routing.combine(held[None], flat, slots).reshape(x.shape).astype(x.dtype)
            y = jax.lax.psum_scatter(y, over, scatter_dimension=0, tiled=True) if over else y
            return jax.lax.psum(y, inside) if inside else y

        tokens = "batch length router"
        in_axes = ["batch length embed", tokens, tokens, *(_axes(name) for name in named)]
        function = on_device
        if layout is not None:
            function = layout.on_every_device(on_device, in_axes, "batch length embed")
        return function(x, experts, weights, *named.values())


class _OfExperts(nn.Module):
    """Declares one of the matrices of every expert, side by side, and maybe a bias."""

    kernel: ParamSpec
    bias: ParamSpec | None

    @nn.compact
    def __call__(self) -> dict[str, jax.Array]:
        declared = {"kernel": parameter(self, "kernel", self.kernel)}
        return declared if self.bias is None else declared | {"bias": parameter(self, "bias", self.bias)}


def _axes(name: str) -> str:
    """The axes of a parameter by its name, such as "up/kernel"."""
    matrix, kind = name.split("/")
    return " ".join(("expert", *(AXES[matrix] if kind == "kernel" else AXES[matrix][1:])))


def _count(real: jax.Array | None, x: jax.Array) -> jax.Array | float:
    return float(x.shape[0] * x.shape[1]) if real is None else real.sum(dtype=jnp.float32)


def _judged(logits: jax.Array, probabilities: jax.Array, load: jax.Array, real: jax.Array | None) -> Aux:
    counted = jnp.ones(logits.shape[:2]) if real is None else real.astype(jnp.float32)
    share = load.sum(0) / jnp.maximum(load.sum(), 1)
    return {
        "load_balance_loss": routing.load_balance_loss(probabilities, load, counted),
        "router_z_loss": routing.router_z_loss(logits, counted),
        "busiest_expert": share.max() * load.shape[1],
    }
