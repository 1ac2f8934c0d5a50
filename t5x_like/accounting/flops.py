# SPDX-License-Identifier: Apache-2.0
"""How many floating-point operations a training token takes."""

from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import DecoderOnlyConfig


def flops_per_token(config: DecoderOnlyConfig, sequence_length: int) -> float:
    """FLOPs of a training token, forward and backward, attention and logits included.

    A product with a matrix of n elements takes 2 n FLOPs a token forward and twice that backward. Attention's two
    products (q k^T and weights v) take 4 T H C forward without a mask; a causal mask leaves half of that. Lookups,
    norms and other elementwise work are not counted.
    """
    c = config
    assert c.head_dim
    counts = count_parameters(c)
    attention = c.num_layers * 2 * sequence_length * c.num_heads * c.head_dim
    return 3.0 * (2 * (counts.matrices + counts.unembedding) + attention)


def flops_per_token_6n(config: DecoderOnlyConfig) -> float:
    """The usual estimate 6 N, with N the non-embedding parameters (Kaplan et al. 2020)."""
    return 6.0 * count_parameters(config).nonembedding
