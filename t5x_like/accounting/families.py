# SPDX-License-Identifier: Apache-2.0
"""Which parts each family of models has. A new family is a function here and its entry in `FAMILIES`."""

from collections.abc import Callable
from typing import Any

from t5x_like.accounting.parts import (
    Part,
    attention,
    attention_scores,
    experts,
    feed_forward,
    logits,
    norm,
    router,
    table,
)
from t5x_like.config import DecoderOnlyConfig, ModelConfig


def decoder_only(c: DecoderOnlyConfig) -> list[Part]:
    """Token and position tables, L blocks of attention and feed-forward with a norm each, a final norm, logits.

    Where a block has experts, they and their router stand in the place of its feed-forward network.
    """
    assert c.num_kv_heads and c.head_dim and c.mlp_dim and c.vocab_size and c.max_length
    tables = [table(c.vocab_size, c.d_model)]
    if c.positions == "learned":
        tables.append(table(c.max_length, c.d_model))
    feed_forwards = []
    if c.num_layers > c.expert_layers:
        dense = feed_forward(c.d_model, c.mlp_dim, c.gated_mlp, c.use_bias)
        feed_forwards.append(dense.times(c.num_layers - c.expert_layers))
    if c.experts is not None:
        e = c.experts
        assert e.mlp_dim
        each = experts(c.d_model, e.mlp_dim, c.gated_mlp, c.use_bias, e.num_experts, e.experts_per_token)
        feed_forwards += [each.times(c.expert_layers), router(c.d_model, e.num_experts).times(c.expert_layers)]
    norms = 2 * c.num_layers + (1 if c.norm_position == "pre" else 0)
    return [
        *tables,
        attention(c.d_model, c.num_heads, c.num_kv_heads, c.head_dim, c.use_bias).times(c.num_layers),
        attention_scores(c.num_heads, c.head_dim, causal=True).times(c.num_layers),
        *feed_forwards,
        norm(c.d_model, c.use_bias).times(norms),
        logits(c.vocab_size, c.d_model, c.tie_embeddings),
    ]


FAMILIES: dict[str, Callable[[Any], list[Part]]] = {"decoder_only": decoder_only}


def parts(config: ModelConfig) -> list[Part]:
    """The parts of a resolved model config."""
    return FAMILIES[config.kind](config)
