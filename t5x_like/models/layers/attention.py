# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention (Vaswani et al. 2017) with multi, grouped or single key/value heads."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_like.errors import UserError, unknown_name
from t5x_like.models.context import Context, Layout, MaskSpec
from t5x_like.models.layers.blockwise import Blocks, blockwise
from t5x_like.models.layers.cached_attention import Cache, append, attend_to_cache
from t5x_like.models.layers.kernels import cudnn, cudnn_cannot, splash, splash_cannot
from t5x_like.models.layers.linear import Linear, Turned, project
from t5x_like.models.layers.masks import (
    MASKED,
    dense_mask,
    for_groups,
    from_the_start,
    may_leave_a_query_alone,
    zero_where_alone,
)
from t5x_like.models.layers.parameters import Params
from t5x_like.models.layers.positions import rotary
from t5x_like.precision import Policy

IMPLEMENTATIONS = ("auto", "reference", "blockwise", "splash", "cudnn")
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
    bias: jax.Array | None = None,
    impl: str = "auto",
    policy: Policy = Policy(),
    layout: Layout | None = None,
    one_cpu: bool = False,
) -> jax.Array:
    """softmax(q k^T / sqrt(C) + bias, over the keys that `mask` allows) v.

    Args:
      q: [B, T, H, C].
      k, v: [B, S, K, C]; H is a multiple of K, and query heads G = H/K share each key/value head.
      mask: who attends to whom.
      bias: [B or 1, H, T, S], added to the logits.
      impl: "reference", the equation itself; "blockwise", without a [T, S] matrix; "splash", a kernel for TPU (on CPU
        interpreted, slowly); "cudnn", one for GPU; "auto", what suits the device and the length. A call through a
        cache, whose queries do not start at key 0, takes what "auto" takes; one with `mask.allowed` the reference.
      policy: the softmax is taken in `policy.softmax`.
      layout: where batch, length and heads lie; None for one device. Where it cuts the length, "blockwise" and "auto"
        go round a ring of devices (`parallel/ring.py`), each by blocks, and "reference" leaves it to the compiler,
        which gathers keys. So does every call that the ring does not take: through a cache, with `mask.allowed`, or of
        a length that the mesh does not divide.
      one_cpu: whether the program is for a single CPU device.

    Returns:
      [B, T, H, C], in q's dtype. A query that may attend to no key gets 0.

    Raises:
      UserError: an unknown `impl`, or a kernel that is asked for by name and cannot do this call.
    """
    platform = "cpu" if one_cpu else jax.default_backend() if layout is None else layout.platform
    parts = 1 if layout is None else layout.length_parts
    impl = choose(impl, platform, q, k, mask=mask, bias=bias, one_cpu=one_cpu, length_parts=parts)
    widen = platform == "cpu"
    if impl == "ring":
        assert layout is not None
        return layout.ring(q, k, v, mask=mask, bias=bias, wide=policy.softmax, blocks=Blocks(512, 512, widen=widen))
    if impl == "splash":
        return splash(q, k, v, mask=mask, layout=layout, interpret=platform == "cpu")
    if impl == "cudnn":
        return cudnn(q, k, v, mask=mask)
    if impl == "blockwise":
        # Measured on two cores: 512 by 512 logits of one head keep both at work, and still stay in the cache; where a
        # narrow window rules most of such a block out, smaller ones waste less.
        size = 128 if one_cpu and mask.window is not None and mask.window < 512 else 512
        blocks = Blocks(size, size, one_head=one_cpu, widen=widen)
        return blockwise(q, k, v, mask=mask, bias=bias, wide=policy.softmax, blocks=blocks)
    return _reference(q, k, v, mask, bias, policy, widen, parts=4 if one_cpu else 1)


def choose(
    impl: str,
    platform: str,
    q: jax.Array,
    k: jax.Array,
    *,
    mask: MaskSpec,
    bias: jax.Array | None = None,
    one_cpu: bool = False,
    length_parts: int = 1,
) -> str:
    """Returns which implementation a call of `attend` takes; raises as `attend` does.

    Beside the public names that may be "ring", where the mesh cuts a sequence in `length_parts`.
    """
    if impl not in IMPLEMENTATIONS:
        raise unknown_name("execution.attention", impl, IMPLEMENTATIONS)
    kernels = {"splash": ("tpu", splash_cannot(q, k, mask, bias)), "cudnn": ("gpu", cudnn_cannot(q, k, mask, bias))}
    if length_parts > 1:
        kernels = {name: (home, f"mesh.seq={length_parts} cuts the length") for name, (home, _) in kernels.items()}
    if impl in kernels and from_the_start(mask):
        home, obstacle = kernels[impl]
        if platform != home and (impl, platform) != ("splash", "cpu"):
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
        if platform == home and obstacle is None:
            return name
    shortest = min(q.shape[1], k.shape[1])
    return "blockwise" if shortest >= (_LONG_ON_ONE_CPU if one_cpu else _LONG) else "reference"


def _reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskSpec,
    bias: jax.Array | None,
    policy: Policy,
    widen: bool,
    parts: int,
) -> jax.Array:
    """The equation itself; of causal attention in `parts`, which saves 3/8 of the work with 4."""
    batch, length, heads, width = q.shape
    kv_length, kv_heads = k.shape[1:3]
    groups = heads // kv_heads
    # Heads lead, so that both products are plain batched matrix products on every backend.
    q = q.reshape(batch, length, kv_heads, groups, width).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    if widen:  # XLA:CPU has no batched bfloat16 product with a float32 result
        q, k = q.astype(policy.softmax), k.astype(policy.softmax)
    if bias is not None:
        bias = bias.reshape(bias.shape[0], kv_heads, groups, length, kv_length)
    alone = may_leave_a_query_alone(mask, length, kv_length)
    step = -(-length // parts)
    if mask.causal and from_the_start(mask) and length == kv_length and step >= _SMALLEST_PART:
        starts = range(0, length, step)
        outs = [_causal_part(q, k, v, mask, bias, policy, alone, slice(a, min(a + step, length))) for a in starts]
        out = outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=3)
    else:
        out = _equation(q, k, v, mask, bias, policy, alone)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _causal_part(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskSpec,
    bias: jax.Array | None,
    policy: Policy,
    alone: bool,
    rows: slice,
) -> jax.Array:
    """`_equation` of some queries with the keys that they can reach."""
    keys = slice(0 if mask.window is None else max(0, rows.start - mask.window + 1), rows.stop)
    part = mask.replace(
        q_segments=None if mask.q_segments is None else mask.q_segments[:, rows],
        kv_segments=None if mask.kv_segments is None else mask.kv_segments[:, keys],
        allowed=None if mask.allowed is None else mask.allowed[:, rows, keys],
        offset=rows.start - keys.start,
    )
    part_of_bias = None if bias is None else bias[..., rows, keys]
    return _equation(q[:, :, :, rows], k[:, :, keys], v[:, :, keys], part, part_of_bias, policy, alone)


def _equation(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskSpec, bias: jax.Array | None, policy: Policy, alone: bool
) -> jax.Array:
    """q [B, K, G, T, C], k and v [B, K, S, C], bias [B or 1, K, G, T, S] to [B, K, G, T, C], in v's dtype.

    `alone` says whether there may be queries without a key.
    """
    groups, length, width = q.shape[2:]
    # The rows X of all heads that share keys are one dimension: on CPU a dimension more costs a quarter of the time.
    q_BKXC = q.reshape(*k.shape[:2], groups * length, width)
    logits = project(q_BKXC, k, "BKXC,BKSC->BKXS", policy.softmax) / math.sqrt(width)
    if bias is not None:
        logits = logits + bias.reshape(bias.shape[0], *logits.shape[1:])
    allowed = for_groups(dense_mask(mask, length, k.shape[2]), groups)
    if allowed is not None:
        logits = jnp.where(allowed, logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKXS,BKSC->BKXC", weights, v)
    if alone:
        out = zero_where_alone(out, allowed)
    return out.reshape(q.shape)


JOINED = "query_key_value"


def joined(params: Params) -> Params:
    """The turned parameters of a `SelfAttention`, its queries, keys and values made by a single product.

    With each key/value head stand the queries that attend to it, [K, G + 2, C, D], so that a mesh cuts all three as it
    cuts the cache.
    """
    assert isinstance(params["key"]["kernel"], Turned)

    def join(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        kv_heads, *rest = k.shape
        return jnp.concatenate([y.reshape(kv_heads, -1, *rest) for y in (q, k, v)], axis=1)

    rest = dict(params)
    return {JOINED: jax.tree.map(join, *(rest.pop(name) for name in ("query", "key", "value"))), **rest}


class SelfAttention(nn.Module):
    """Queries, keys and values from x; attention; back to the model's width.

    Through a cache, the keys and values of this call are written at slot `ctx.mask.offset` and the queries attend to
    the whole cache; the mask's segment ids keep the slots out that hold nothing yet. A call that is known to be the
    first has nothing to look back on: it attends to its own keys alone.

    The three first maps may have been joined to one (`joined`).
    """

    width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float | None  # None: no rotary positions
    use_bias: bool
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, ctx: Context, cache: Cache | None) -> tuple[jax.Array, Cache | None]:
        def heads(name: str, pattern: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
            shape, axes = (*shape, self.head_dim), (*axes, "head_dim")
            return Linear(pattern, (self.width,), ("embed",), shape, axes, self.use_bias, name=name)(x, ctx)

        if self.has_variable("params", JOINED):  # never drawn here, so that no rule has to know its dimensions
            shape = self.num_kv_heads, self.num_heads // self.num_kv_heads + 2
            y = heads(JOINED, "BTD,DKJC->BTKJC", shape, ("kv_heads", "joined"))
            q, k, v = y[..., :-2, :].reshape(*x.shape[:2], -1, self.head_dim), y[..., -2, :], y[..., -1, :]
        else:
            q = heads("query", "BTD,DHC->BTHC", (self.num_heads,), ("heads",))
            k, v = (heads(name, "BTD,DKC->BTKC", (self.num_kv_heads,), ("kv_heads",)) for name in ("key", "value"))
        q = ctx.constrain(q, "batch length heads head_dim")
        k, v = (ctx.constrain(y, "batch length kv_heads head_dim") for y in (k, v))
        if self.rope_theta is not None:
            assert ctx.positions is not None
            q, k = rotary(q, ctx.positions, self.rope_theta), rotary(k, ctx.positions, self.rope_theta)
        if cache is not None:
            cache = append(cache, k, v, ctx)
        if cache is not None and not (isinstance(ctx.mask.offset, int) and ctx.mask.offset == 0):
            allowed = dense_mask(ctx.mask, x.shape[1], cache["value"].shape[-2])
            y = attend_to_cache(q, cache, allowed, ctx.policy)
        else:
            y = attend(
                q, k, v, mask=ctx.mask, impl=ctx.attention, policy=ctx.policy, layout=ctx.layout, one_cpu=ctx.one_cpu
            )
        out = Linear(
            "BTHC,HCD->BTD",
            (self.num_heads, self.head_dim),
            ("heads", "head_dim"),
            (self.width,),
            ("embed",),
            self.use_bias,
            self.out_scale,
            name="out",
        )
        return out(y, ctx), cache
