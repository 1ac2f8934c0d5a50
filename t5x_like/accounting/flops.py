# SPDX-License-Identifier: Apache-2.0
"""How many floating-point operations a token takes."""

from t5x_like.accounting.families import parts
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import ModelConfig

BACKWARD = 2  # times forward: every product has two operands, and the gradient of each is a product of the same size


def forward_flops(config: ModelConfig, length: int, *, full_attention: bool = False) -> dict[str, float]:
    """FLOPs of a token's forward pass, part by part.

    A product with a matrix of n elements takes 2 n FLOPs a token. Attention's two products, q k^T and weights v, take
    4 T H C together without a mask; a causal mask leaves half of that. Lookups, norms, rotary positions, the softmax
    and other elementwise work are not counted: on accelerators they run beside the products, not instead of them.

    Args:
      config: resolved.
      length: tokens of a sequence.
      full_attention: count masked pairs too, as PaLM's appendix B and Chinchilla's appendix F do.
    """
    by_part: dict[str, float] = {}
    for part in parts(config):
        flops = part.flops(length, full_attention)
        if flops:
            by_part[part.name] = by_part.get(part.name, 0.0) + flops
    return by_part


def flops_per_token(config: ModelConfig, sequence_length: int, *, full_attention: bool = False) -> float:
    """FLOPs of a training token, forward and backward, attention and logits included. See `forward_flops`.

    Recomputation (rematerialised layers) is not counted: it is how the gradient is computed, not what it is.
    """
    return (1 + BACKWARD) * sum(forward_flops(config, sequence_length, full_attention=full_attention).values())


def flops_per_token_6n(config: ModelConfig) -> float:
    """The usual estimate 6 N, with N the active parameters outside the tables (Kaplan et al. 2020)."""
    counts = count_parameters(config)
    return 6.0 * (counts.nonembedding - (counts.total - counts.active))
