# SPDX-License-Identifier: Apache-2.0
"""One self-attention layer of each kind, forward and backward: its time, its temporaries and its FLOPs by length."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.accounting.flops import forward_flops
from t5x_like.config.attention import AnyAttention
from t5x_like.config.models.bert import BertConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.models.context import Context, MaskSpec
from t5x_like.models.layers.kinds import layer_of
from t5x_like.models.layers.parameters import call, initialise, record_specs
from t5x_like.strict import convert
from t5x_like.training.startup import configure_jax

HEADS, HEAD_DIM = 8, 64
KINDS: dict[str, dict[str, Any] | None] = {  # their papers' sizes where they have some
    "softmax": None,
    "streaming": {"kind": "streaming", "window": 512, "sinks": 4},
    "sparse_transformer": {"kind": "sparse_transformer", "stride": 128, "columns": 8},
    "linear": {"kind": "linear"},
    "performer": {"kind": "performer", "features": 256},
    "longformer": {"kind": "longformer", "window": 512, "global_tokens": 1},
    "big_bird": {"kind": "big_bird"},
    "local": {"kind": "local"},
    "transient_global": {"kind": "transient_global"},
    "linformer": {"kind": "linformer"},
}


def attention_of(name: str) -> Any:
    content = KINDS[name]
    if content is None:
        return None
    kinds = {str(kind.kind): kind for kind in AnyAttention.__args__}
    return convert(kinds[content["kind"]], content)


def causal(name: str) -> bool:
    kind = attention_of(name)
    return kind is None or (kind.causal is not False and name != "longformer")


def layer_flops(name: str, length: int) -> float:
    """Of a token, forward, in the products of queries, keys and values alone."""
    config = DecoderOnlyConfig if causal(name) else BertConfig
    sizes: dict[str, Any] = {"num_layers": 1, "d_model": HEADS * HEAD_DIM, "num_heads": HEADS, "max_length": length}
    model = config(**sizes, vocab_size=8, attention=attention_of(name), positions="none").filled()
    return forward_flops(model, length)["attention_scores"]


def compiled(name: str, *, length: int, batch: int = 1) -> tuple[Any, list[Any]]:
    """The compiled value and gradients of a layer with its maps, and operands for it."""
    kind, width = attention_of(name), HEADS * HEAD_DIM
    layer = layer_of(kind)(width, HEADS, HEADS, HEAD_DIM, "none", kind=kind, max_length=length)
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    ctx = Context(positions=positions, mask=MaskSpec(causal=causal(name)), one_cpu=jax.default_backend() == "cpu")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, length, width)), jnp.float32)
    params = initialise(record_specs(layer, x[:, :1], ctx.replace(positions=positions[:, :1]), None), jax.random.key(0))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(call(layer, params, x, ctx, None)[0]))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(params, x).compile(), [params, x]


def temporaries(name: str, length: int) -> float:
    """MiB that the compiled program allocates beside its operands and results; nothing is run."""
    return float(compiled(name, length=length)[0].memory_analysis().temp_size_in_bytes) / 2**20


def attention(name: str, length: int) -> tuple[Callable[[int], None], int]:
    """A contender for `turns.measure`: returns `work(repeats)` and the tokens of a repeat."""
    configure_jax()
    program, operands = compiled(name, length=length)

    def work(repeats: int) -> None:
        for _ in range(repeats):
            jax.block_until_ready(program(*operands))

    return work, length
