# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention (Vaswani et al. 2017) with multi, grouped or single key/value heads."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.config.attention import AttentionConfig
from t5x_like.errors import UserError, unknown_name
from t5x_like.models.context import Context, Layout, Marks, MaskSpec, platform_of
from t5x_like.models.layers.biases import Bias
from t5x_like.models.layers.blockwise import Blocks, blocks_for, blockwise
from t5x_like.models.layers.cached_attention import Cache, CacheSizes, append, attend_to_cache, empty_cache
from t5x_like.models.layers.kernels import cudnn, cudnn_cannot, splash, splash_cannot, triton, triton_cannot
from t5x_like.models.layers.linear import Linear, Turned, project
from t5x_like.models.layers.masks import (
    MASKED,
    both,
    dense_mask,
    distance,
    for_groups,
    from_the_start,
    may_leave_a_query_alone,
    within_window,
    zero_where_alone,
)
from t5x_like.models.layers.norms import Norm
from t5x_like.models.layers.parameters import Attends, Params
from t5x_like.models.layers.positions import Rotary
from t5x_like.precision import Policy

IMPLEMENTATIONS = ("auto", "reference", "blockwise", "splash", "cudnn", "triton")
# From this length on "auto" goes by blocks: on a single CPU device by measurement, see docs/attention.md; elsewhere
# where the logits of one layer begin to fill the memory.
_LONG, _LONG_ON_ONE_CPU = 2048, 1024
_SMALLEST_PART = 32  # queries; shorter parts cost more in calls than they save


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: MaskSpec,
    bias: Bias | None = None,
    soft_cap: float | None = None,
    impl: str = "auto",
    policy: Policy = Policy(),
    layout: Layout | None = None,
    one_cpu: bool = False,
) -> jax.Array:
    """softmax(cap(q k^T / sqrt(C)) + bias, over the keys that `mask` allows) v.

    Args:
      q: [B, T, H, C].
      k, v: [B, S, K, C]; H is a multiple of K, and query heads G = H/K share each key/value head.
      mask: who attends to whom.
      bias: added to the logits, by the distance from query to key; the indices of both are taken for positions.
      soft_cap: c of cap(x) = c tanh(x / c), which keeps logits within c (Gemma 2, Gemma Team 2024); None caps nothing.
      impl: "reference", the equation itself; "blockwise", without a [T, S] matrix; kernels (on CPU interpreted, slowly)
        "splash" for TPU, "cudnn" for GPU, "triton", our own with segments; "auto", what suits device and length. A call
        through a cache, whose queries do not start at key 0, takes what "auto" does; with `mask.allowed` the reference.
      policy: the softmax is taken in `policy.softmax`.
      layout: where batch, length and heads lie; None for one device. Where it cuts the length, "blockwise" and "auto"
        go round a ring of devices (`parallel/ring.py`), each by blocks; "reference", and what the ring does not take (a
        cache, `mask.allowed`, a length that the mesh does not divide), leave it to the compiler, which gathers keys.
      one_cpu: whether the program is for a single CPU device.

    Returns:
      [B, T, H, C], in q's dtype. A query that may attend to no key gets 0.

    Raises:
      UserError: an unknown `impl`, or a kernel that is asked for by name and cannot do this call.
    """
    platform = platform_of(layout, one_cpu)
    parts = 1 if layout is None else layout.length_parts
    how: dict[str, Any] = {"mask": mask, "bias": bias, "soft_cap": soft_cap}
    impl = choose(impl, platform, q, k, **how, one_cpu=one_cpu, length_parts=parts)
    widen = platform == "cpu"
    if impl == "ring":
        assert layout is not None
        return layout.ring(q, k, v, **how, wide=policy.softmax, blocks=Blocks(512, 512, widen=widen))
    if impl == "splash":
        return splash(q, k, v, mask=mask, soft_cap=soft_cap, layout=layout, interpret=platform == "cpu")
    if impl == "cudnn":
        return cudnn(q, k, v, mask=mask)
    if impl == "triton":
        return triton(q, k, v, **how, layout=layout, interpret=platform == "cpu")
    if impl == "blockwise":
        return blockwise(q, k, v, **how, wide=policy.softmax, blocks=blocks_for(mask, one_cpu, widen))
    return _reference(q, k, v, mask, Logits(bias, soft_cap, policy), widen, parts=4 if one_cpu else 1)


def choose(
    impl: str,
    platform: str,
    q: jax.Array,
    k: jax.Array,
    *,
    mask: MaskSpec,
    bias: Bias | None = None,
    soft_cap: float | None = None,
    one_cpu: bool = False,
    length_parts: int = 1,
) -> str:
    """Which implementation a call of `attend` takes, "ring" where the mesh cuts a sequence in `length_parts`; raises as
    `attend` does."""
    if impl not in IMPLEMENTATIONS:
        raise unknown_name("execution.attention", impl, IMPLEMENTATIONS)
    kernels = {
        "splash": ("tpu", splash_cannot(q, k, mask, bias)),
        "cudnn": ("gpu", cudnn_cannot(q, k, mask, bias, soft_cap)),
        "triton": ("gpu", triton_cannot(q, k, mask, bias)),
    }
    if length_parts > 1:
        kernels = {name: (home, f"mesh.seq={length_parts} cuts the length") for name, (home, _) in kernels.items()}
    if impl in kernels and from_the_start(mask):
        home, obstacle = kernels[impl]
        if platform != home and (impl == "cudnn" or platform != "cpu"):
            obstacle = f"the program is for {platform}, not for {home}"
        if obstacle:
            raise UserError(
                f"execution.attention: '{impl}' cannot do this: {obstacle}; accepted: auto, blockwise, reference"
            )
        return impl
    if impl == "reference" or mask.allowed is not None:
        return "reference"
    if length_parts > 1 and from_the_start(mask) and not (q.shape[1] % length_parts or k.shape[1] % length_parts):
        return "ring"
    if impl == "blockwise":
        return impl
    for name, (home, obstacle) in kernels.items():
        if platform == home and obstacle is None and name != "triton":  # which no one has measured yet
            return name
    shortest = min(q.shape[1], k.shape[1])
    return "blockwise" if shortest >= (_LONG_ON_ONE_CPU if one_cpu else _LONG) else "reference"


class Logits(NamedTuple):
    """How the logits of attention come about, beside the product of queries and keys; see `attend`."""

    bias: Bias | None
    soft_cap: float | None
    policy: Policy

    def of(self, products: jax.Array, distance: Callable[[], jax.Array]) -> jax.Array:
        """Products of queries and keys, scaled, [B, K, X, S], to logits; X runs over T within G. `distance` gives the
        index or position of a key minus that of the query, [N, T, S]."""
        logits = products if self.soft_cap is None else self.soft_cap * jnp.tanh(products / self.soft_cap)
        if self.bias is None:
            return logits
        bias = self.bias.of(distance()).astype(logits.dtype)
        return logits + bias.reshape(bias.shape[0], *logits.shape[1:])


def _reference(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, how: Logits, widen: bool, parts: int
) -> jax.Array:
    """The equation itself; of causal attention in `parts`, which saves 3/8 of the work with 4."""
    batch, length, heads, width = q.shape
    kv_length, kv_heads = k.shape[1:3]
    groups = heads // kv_heads
    # Heads lead, so that both products are plain batched matrix products on every backend.
    q = q.reshape(batch, length, kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    if widen:  # XLA:CPU has no batched bfloat16 product with a float32 result
        q, k = q.astype(how.policy.softmax), k.astype(how.policy.softmax)
    alone = may_leave_a_query_alone(mask, length, kv_length)
    step = -(-length // parts)
    if not mask.looks_ahead and from_the_start(mask) and length == kv_length and step >= _SMALLEST_PART:
        starts = range(0, length, step)
        outs = [_causal_part(q, k, v, mask, how, alone, slice(a, min(a + step, length))) for a in starts]
        out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=3)
    else:
        out = _equation(q, k, v, mask, how, alone)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _causal_part(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, how: Logits, alone: bool, rows: slice
) -> jax.Array:
    """`_equation` of some queries with the keys that they can reach."""
    keys = slice(0 if mask.reach is None else max(0, rows.start - mask.reach + 1), rows.stop)
    part = mask.replace(
        q=jax.tree.map(lambda marks: marks[:, rows], mask.q),
        kv=jax.tree.map(lambda marks: marks[:, keys], mask.kv),
        allowed=None if mask.allowed is None else mask.allowed[:, rows, keys],
        offset=rows.start - keys.start,
    )
    return _equation(q[:, :, :, rows], k[:, :, keys], v[:, :, keys], part, how, alone)


def _equation(q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, how: Logits, alone: bool) -> jax.Array:
    """q [B, K, G, T, C], k and v [B, K, S, C] to [B, K, G, T, C], in v's dtype; `alone`: a query may have no key."""
    weights, allowed = _weights(q, k, mask, how)
    out = jnp.einsum("BKXS,BKSC->BKXC", weights.astype(v.dtype), v)
    if alone:
        out = zero_where_alone(out, allowed)
    return out.reshape(q.shape)


def attention_weights(
    q: jax.Array, k: jax.Array, mask: MaskSpec, bias: Bias | None, soft_cap: float | None, policy: Policy
) -> jax.Array:
    """The softmax of `attend`, [B, H, T, S] in `policy.softmax`; those of a query that may attend to no key are 0."""
    batch, length, heads, width = q.shape
    q = q.reshape(batch, length, k.shape[2], -1, width).transpose(0, 2, 3, 1, 4).astype(policy.softmax)
    k = k.transpose(0, 2, 1, 3).astype(policy.softmax)
    weights, allowed = _weights(q, k, mask, Logits(bias, soft_cap, policy))
    return zero_where_alone(weights, allowed).reshape(batch, heads, length, -1)


def _weights(q: jax.Array, k: jax.Array, mask: MaskSpec, how: Logits) -> tuple[jax.Array, jax.Array | None]:
    """The softmax [B, K, X, S], X over T within G, and which keys are allowed, to be broadcast to it; None: all."""
    groups, length, width = q.shape[2:]
    kv_length = k.shape[2]
    # The rows X of all heads that share keys are one dimension: on CPU a dimension more costs a quarter of the time.
    q_BKXC = q.reshape(*k.shape[:2], groups * length, width)
    products = project(q_BKXC, k, "BKXC,BKSC->BKXS", how.policy.softmax) / math.sqrt(width)
    places = mask.offset + jnp.arange(length), jnp.arange(kv_length), mask.q, mask.kv
    logits = how.of(products, lambda: distance(*places))
    allowed = for_groups(dense_mask(mask, length, kv_length), groups)
    if allowed is not None:
        logits = jnp.where(allowed, logits, MASKED)
    return jax.nn.softmax(logits, axis=-1), allowed


def _distance(queries: jax.Array | None, keys: jax.Array | None) -> jax.Array:
    assert queries is not None and keys is not None
    return keys[..., None, :] - queries[..., :, None]


JOINED = "query_key_value"
Attended = tuple[jax.Array, Cache | None]  # values, and the cache, if there is one, or weights


def joined(params: Params) -> Params:
    """The turned parameters of a `SelfAttention`, its queries, keys and values made by a single product.

    With each key/value head stand the queries that attend to it, [K, G + 2, C, D], so that a mesh cuts all three as it
    cuts the cache. Kernels that are no arrays stay apart.
    """
    if not all(isinstance(params[name]["kernel"], Turned) for name in ("query", "key", "value")):
        return params

    def join(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        kv_heads, *rest = k.shape
        return jnp.concatenate([y.reshape(kv_heads, -1, *rest) for y in (q, k, v)], axis=1)

    rest = dict(params)
    return {JOINED: jax.tree.map(join, *(rest.pop(name) for name in ("query", "key", "value"))), **rest}


class Attention(nn.Module):
    """Queries from x; keys and values from x too, or from the memory of another stream; back to the model's width.

    Through a cache, keys and values of self-attention are written at slot `ctx.mask.offset` and queries attend to the
    whole cache; the mask's segment ids keep empty slots out. A call that is known to be the first attends to its own
    keys alone. Cross-attention computes keys and values of the memory in that first call and keeps them.

    With `ctx.weights`, and without a cache, the weights are returned in its place: see `attention_weights`. The three
    first maps of self-attention may have been joined to one (`joined`).
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bias: str  # of maps: "all", "inputs" (all but the last) or "none"
    out_scale: float = 1.0  # of the last map's initial values
    cross: bool = False  # whether keys and values come from `ctx.memory`
    rotary: Rotary | None = None  # positions; None: no such
    scale: float | None = None  # of the product of query and key; None: 1 / sqrt(head_dim)
    window: int | None = None  # of these layers, see `MaskSpec`; None: the stack's
    norm_epsilon: float | None = None  # of an RMSNorm of every head's query and key (Henry et al. 2020); None: none
    norm_around_one: bool = False  # see `Norm`
    soft_cap: float | None = None  # see `attend`
    kind: Any = None  # the AttentionConfig of layers that choose their keys another way
    max_length: int | None = None  # the longest sequence, for layers that ask
    memory_width: int | None = None  # of `ctx.memory`; None: width

    by_position: ClassVar[bool] = False  # whether keys go by positions in a document, which a padded prompt shifts

    @staticmethod
    def empty_cache(sizes: CacheSizes, kind: AttentionConfig | None) -> Cache:
        """What one layer keeps of earlier calls."""
        del kind
        return empty_cache(*sizes)

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, cache: Cache | None) -> Attended:
        mask = self._mask(x, ctx)
        if self.cross:
            y, cache = self._to_memory(x, mask, ctx, cache)
        else:
            y, cache = self._to_self(x, mask, ctx, cache)
        heads, axes = (self.num_heads, self.head_dim), ("heads", "head_dim")
        sizes = heads, axes, (self.width,), ("embed",)
        return Linear("BTHC,HCD->BTD", *sizes, self.bias == "all", self.out_scale, name="out")(y, ctx), cache

    def _mask(self, x: jax.Array, ctx: Context) -> MaskSpec:
        if self.cross:
            assert ctx.memory is not None
            q = ctx.mask.q.segments if ctx.memory.seen is None else ctx.memory.seen
            kv, memory = ctx.memory.marks.segments, ctx.memory.values
            if q is None and kv is not None:  # one segment everywhere
                q = jnp.ones(x.shape[:2], kv.dtype)
            if kv is None and q is not None and memory is not None:
                kv = jnp.ones(memory.shape[:2], q.dtype)
            return MaskSpec(causal=False, q=Marks(q), kv=Marks(kv))
        return ctx.mask if self.window is None else ctx.mask.replace(window=self.window)

    def _to_self(self, x: jax.Array, mask: MaskSpec, ctx: Context, cache: Cache | None) -> Attended:
        q, k, v = self._made(x, mask, ctx)
        if cache is not None:
            cache = append(cache, k, v, ctx)
        if cache is None or (from_the_start(mask) and not self.by_position):
            return self._mix(x, q, k, v, mask, ctx), cache or self._told(q, k, mask, ctx.bias, ctx)
        if from_the_start(mask):  # nothing is in the slots behind the prompt
            behind = [(0, 0), (0, cache["value"].shape[-2] - x.shape[1])]
            mask = mask.replace(kv=jax.tree.map(lambda marks: jnp.pad(marks, behind), mask.kv))
        return self._attend_to(cache, q, mask, ctx.bias, ctx), cache

    def _made(
        self, x: jax.Array, mask: MaskSpec, ctx: Context, source: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries of x, keys and values of x or of the `source`, with their positions."""
        if self.has_variable("params", JOINED):  # never drawn here, so that no rule has to know its dimensions
            shape = self.num_kv_heads, self.num_heads // self.num_kv_heads + 2
            y = self._heads(JOINED, "BTD,DKJC->BTKJC", shape, ("kv_heads", "joined"))(x, ctx)
            q, k, v = y[..., :-2, :].reshape(*x.shape[:2], -1, self.head_dim), y[..., -2, :], y[..., -1, :]
        else:
            q = self._query(x, mask, ctx)
            k, v = (self._heads(name)(x if source is None else source, ctx) for name in ("key", "value"))
        q = ctx.constrain(self._normed("query_norm", q), "batch length heads head_dim")
        k = ctx.constrain(self._normed("key_norm", k), "batch length kv_heads head_dim")
        v = ctx.constrain(v, "batch length kv_heads head_dim")
        if self.rotary is not None:
            assert ctx.positions is not None
            q, k = (self.rotary.turned(y, ctx.positions) for y in (q, k))
        return q, k, v

    def _mix(self, x: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        """Values [B, T, H, C] of a whole sequence. Layers that choose their keys another way have another `_mix`."""
        del x
        return self._attend(q, k, v, mask, ctx.bias, ctx)

    def _to_memory(self, x: jax.Array, mask: MaskSpec, ctx: Context, cache: Cache | None) -> Attended:
        assert ctx.memory is not None
        q = ctx.constrain(self._normed("query_norm", self._query(x, mask, ctx)), "batch length heads head_dim")
        if ctx.memory.values is None:
            assert cache is not None
            y, seen = self._attend_to(cache, q, mask, None, ctx), dense_mask(mask, q.shape[1], cache["value"].shape[-2])
            return y if seen is None else jnp.where(seen.any(-1)[..., None, None], y, 0), cache
        memory = ctx.memory.values
        k, v = (self._heads(name, stream="memory")(memory, ctx) for name in ("key", "value"))
        k = self._normed("key_norm", k)
        k, v = (ctx.constrain(y, "batch length kv_heads head_dim") for y in (k, v))
        if cache is not None:
            cache = append(cache, k, v, ctx)
        return self._attend(q, k, v, mask, None, ctx), cache or self._told(q, k, mask, None, ctx)

    def _told(self, q: jax.Array, k: jax.Array, mask: MaskSpec, bias: Bias | None, ctx: Context) -> Cache | None:
        if not ctx.weights:
            return None
        return {"weights": attention_weights(self._scaled(q), k, mask, bias, self.soft_cap, ctx.policy)}

    def _query(self, x: jax.Array, mask: MaskSpec, ctx: Context) -> jax.Array:
        more: Any = {"attends": Attends("memory" if self.cross else "own", mask.causal, mask.window, self.kind)}
        if self.scale is not None:  # logits start as large as with the usual scale
            more["scale"] = 1 / (self.scale * math.sqrt(self.head_dim))
        return self._heads("query", "BTD,DHC->BTHC", (self.num_heads,), ("heads",), **more)(x, ctx)

    def _heads(
        self,
        name: str,
        pattern: str = "BTD,DKC->BTKC",
        shape: tuple[int, ...] | None = None,
        axes: tuple[str, ...] = ("kv_heads",),
        **more: Any,
    ) -> Linear:
        """A map to heads; of keys and values unless it says otherwise."""
        shape, axes = (*(shape or (self.num_kv_heads,)), self.head_dim), (*axes, "head_dim")
        width = self.memory_width if more.get("stream") == "memory" else None
        return Linear(pattern, (width or self.width,), ("embed",), shape, axes, self.bias != "none", name=name, **more)

    def _normed(self, name: str, heads: jax.Array) -> jax.Array:
        if self.norm_epsilon is None:
            return heads
        return Norm("rmsnorm", self.norm_epsilon, False, "head_dim", self.norm_around_one, name=name)(heads)

    def _scaled(self, q: jax.Array) -> jax.Array:
        """What makes the scale that every implementation has, 1 / sqrt(head_dim), the layer's own."""
        return q if self.scale is None else q * (self.scale * math.sqrt(self.head_dim))

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, bias: Bias | None, ctx: Context
    ) -> jax.Array:
        execution: Any = {"impl": ctx.attention, "policy": ctx.policy, "layout": ctx.layout, "one_cpu": ctx.one_cpu}
        return attend(self._scaled(q), k, v, mask=mask, bias=bias, soft_cap=self.soft_cap, **execution)

    def _near(self, mask: MaskSpec, queries: jax.Array | None, keys: jax.Array | None) -> jax.Array | None:
        """Which slots of a cache a query looks at, by positions [B, T] and [B, S]: bool [B, T, S], or [B, H, T, S]
        where heads differ; None: all that other conditions leave."""
        return None if mask.window is None else within_window(mask, -_distance(queries, keys))

    def _attend_to(self, cache: Cache, q: jax.Array, mask: MaskSpec, bias: Bias | None, ctx: Context) -> jax.Array:
        """To all slots of a cache; distances are those of positions, for beams put their tokens side by side."""
        how, far = Logits(bias, self.soft_cap, ctx.policy), partial(_distance, ctx.positions, ctx.kv_positions)
        allowed = dense_mask(mask.replace(window=None), q.shape[1], cache["value"].shape[-2])
        near = self._near(mask, ctx.positions, ctx.kv_positions)
        if near is not None:
            allowed = near if allowed is None else both(allowed, near)
        return attend_to_cache(self._scaled(q), cache, allowed, partial(how.of, distance=far), ctx.policy)
