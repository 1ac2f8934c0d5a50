# SPDX-License-Identifier: Apache-2.0
"""Attention in kernels for one kind of accelerator: splash on TPU; cuDNN's and our own on GPU.

Each has a function that says why it cannot do a call (None if it can) and one that does it.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from t5x_like.models.context import Layout, MaskSpec
from t5x_like.models.layers.biases import Bias, LinearBias
from t5x_like.models.layers.flash import SMALLEST, How, Operands, flash
from t5x_like.models.layers.masks import (
    dense_mask,
    for_groups,
    from_the_start,
    may_leave_a_query_alone,
    zero_where_alone,
)

_LANES = 128  # of a TPU's vector unit; splash attention wants blocks that are multiples of it


def splash_cannot(q: jax.Array, k: jax.Array, mask: MaskSpec, bias: Bias | None) -> str | None:
    """Why splash attention does not take this call, in a few words; None if it does."""
    length, kv_length, width = q.shape[1], k.shape[1], q.shape[3]
    if obstacle := _neither_can(mask, bias):
        return obstacle
    if length % _LANES or kv_length % _LANES:
        return f"lengths {length} and {kv_length} are not multiples of {_LANES}"
    if width % 64:
        return f"head_dim={width} is not a multiple of 64"
    return None


def _neither_can(mask: MaskSpec, bias: Bias | None) -> str | None:
    if bias is not None:
        return "a bias is added to the logits"
    if mask.allowed is not None or mask.reordered or not from_the_start(mask):
        return "queries do not start at the first key"
    if mask.kv.prefix is not None:
        return "a prefix that is seen from before it"
    if mask.q.everywhere is not None or mask.kv.everywhere is not None:
        return "global tokens"
    if mask.kv.shared is not None:
        return "tokens that every segment sees"
    if mask.dilation > 1:
        return "a dilated window"
    if mask.window is not None and not mask.causal:
        return "a window without causality"
    return None


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: MaskSpec,
    soft_cap: float | None = None,
    layout: Layout | None,
    interpret: bool,
) -> jax.Array:
    """`attend` by JAX's Pallas kernel for TPU, splash attention: blockwise, sparse by blocks, with grouped heads.

    The compiler does not partition a kernel, so with a `layout` it runs on every device's own rows and heads. With
    `interpret` it is carried out in plain JAX, slowly, for checks on other devices. A query that may look at no key
    gets 0.
    """
    segments = None if mask.q.segments is None else (mask.q.segments, mask.kv.segments)

    def on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, *segments: jax.Array) -> jax.Array:
        from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds  # slow to import, for TPU only

        kernel = _splash_kernel(q.shape[2], q.shape[1], k.shape[1], mask, soft_cap, interpret)
        ids = SegmentIds(*(x.astype(jnp.int32) for x in segments)) if segments else None
        return jax.vmap(kernel)(q.transpose(0, 2, 1, 3), k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), ids)

    function = _on_every_device(on_one_device, layout, bool(segments), [], "batch heads length head_dim")
    out = function(_scaled(q), k, v, *(segments or ()))
    if may_leave_a_query_alone(mask, q.shape[1], k.shape[1]):
        out = zero_where_alone(out, for_groups(dense_mask(mask, q.shape[1], k.shape[1]), 1))
    return out.transpose(0, 2, 1, 3)


def _splash_kernel(
    heads: int, length: int, kv_length: int, mask: MaskSpec, soft_cap: float | None, interpret: bool
) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    shape = (length, kv_length)
    one: Any = library.CausalMask(shape) if mask.causal else library.FullMask(shape)
    if mask.window is not None:
        one = library.LocalMask(shape, (mask.window - 1, 0), 0)  # keys behind, keys ahead
    rows, keys = (next(size for size in (512, 256, _LANES) if n % size == 0) for n in shape)
    of_rows = "block_q", "block_q_dkv", "block_q_dq"
    of_keys = "block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq"
    sizes: dict[str, Any] = dict.fromkeys(of_rows, rows) | dict.fromkeys(of_keys, keys)
    return library.make_splash_mha(
        library.MultiHeadMask([one] * heads),
        block_sizes=library.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )


def cudnn_cannot(
    q: jax.Array, k: jax.Array, mask: MaskSpec, bias: Bias | None, soft_cap: float | None = None
) -> str | None:
    """Why cuDNN's attention does not take this call, in a few words; None if it does."""
    width = q.shape[3]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {q.dtype} is neither bfloat16 nor float16"
    if width % 8 or width > 128:
        return f"head_dim={width} is not a multiple of 8 up to 128"
    if obstacle := _neither_can(mask, bias):
        return obstacle
    if mask.causal and q.shape[1] != k.shape[1]:
        return "causality between two lengths"
    if mask.q.segments is not None:
        return "segment ids"
    if soft_cap is not None:
        return "capped logits"
    return None


def cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, *, mask: MaskSpec, implementation: Literal["cudnn", "xla"] = "cudnn"
) -> jax.Array:
    """`attend` by cuDNN's fused attention; cut over batch and heads by JAX's own rules. The implementation "xla" asks
    the same of the compiler, to check the arguments where there is no GPU."""
    window = None if mask.window is None else (mask.window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=mask.causal, local_window_size=window, implementation=implementation
    )


def triton_cannot(q: jax.Array, k: jax.Array, mask: MaskSpec, bias: Bias | None) -> str | None:
    """Why our Pallas kernel for GPU does not take this call, in a few words; None if it does."""
    if bias is not None and not isinstance(bias, LinearBias):
        return "a bias is added to the logits that is no slope"
    if obstacle := _neither_can(mask.replace(window=None), None):
        return obstacle
    if q.shape[1] % SMALLEST or k.shape[1] % SMALLEST:
        return f"lengths {q.shape[1]} and {k.shape[1]} are not multiples of {SMALLEST}"
    if q.shape[3] > 128:
        return f"head_dim={q.shape[3]} is above 128"
    return None


def triton(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: MaskSpec,
    bias: Bias | None = None,
    soft_cap: float | None = None,
    layout: Layout | None,
    interpret: bool,
) -> jax.Array:
    """`attend` by our kernel for GPU (`flash.py`), which Triton compiles; as `splash`, on every device's own share."""
    how = How(mask.causal, mask.window, soft_cap, interpret)
    segments = None if mask.q.segments is None else (mask.q.segments, mask.kv.segments)
    more = [*(segments or ()), *(() if bias is None else (jax.lax.stop_gradient(bias.weights),))]

    def on_one_device(q: jax.Array, k: jax.Array, v: jax.Array, *more: jax.Array) -> jax.Array:
        x = Operands(*(y.transpose(0, 2, 1, 3) for y in (q, k, v)))
        if segments:
            x = x._replace(q_segments=more[0].astype(jnp.int32), kv_segments=more[1].astype(jnp.int32))
        if bias is not None:
            x = x._replace(slopes=more[-1].astype(jnp.float32))
        return flash(x, how).transpose(0, 2, 1, 3)

    slopes = [] if bias is None else ["heads"]
    function = _on_every_device(on_one_device, layout, bool(segments), slopes, "batch length heads head_dim")
    return function(_scaled(q), k, v, *more)


def _on_every_device(function: Any, layout: Layout | None, segments: bool, more: list[str], out: str) -> Any:
    """A function of q, k, v, maybe of both segment ids, and of `more`, on every device's own rows and heads."""
    names = ["batch length heads head_dim", *["batch kv_length kv_heads head_dim"] * 2]
    names += (["batch length", "batch kv_length"] if segments else []) + more
    return function if layout is None else layout.on_every_device(function, names, out)


def _scaled(q: jax.Array) -> jax.Array:
    return (q.astype(jnp.float32) / q.shape[3] ** 0.5).astype(q.dtype)  # neither kernel does it
