# SPDX-License-Identifier: Apache-2.0
"""Roofline of attention (Williams et al. 2009): what it computes, what it has to move, and which of them bounds it."""

from dataclasses import dataclass

from t5x_like.accounting.flops import forward_flops
from t5x_like.accounting.hardware import Chip
from t5x_like.config import TransformerConfig


@dataclass(frozen=True)
class AttentionCost:
    """One layer's attention, forward, for one token, beside its linear maps.

    Attributes:
      flops: of the products of queries, keys and values.
      bytes: that a kernel moves at least: queries, keys and values once in, values once out.
    """

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes

    def share_of_peak(self, chip: Chip, dtype: str = "bf16") -> float:
        """The most of a chip's peak that it can reach; below 1 the memory's bandwidth bounds it."""
        return min(1.0, self.intensity * chip.memory_bandwidth / chip.peaks[dtype])


def attention_cost(config: TransformerConfig, length: int, width: int = 2) -> AttentionCost:
    """Of a resolved config's first stack, for rows of a length and numbers of `width` bytes."""
    assert config.num_kv_heads and config.head_dim
    parts = forward_flops(config, length)
    layers = config.stacks[0]
    moved = 2.0 * (config.num_heads + config.num_kv_heads) * config.head_dim * width
    return AttentionCost(parts["attention_scores"] / layers, moved)


def feed_forward_share(config: TransformerConfig, length: int) -> tuple[float, float]:
    """Of a token's FLOPs, those of the feed-forward networks: of all, and of those of the layers alone."""
    parts = forward_flops(config, length)
    mlp = parts.get("feed_forward", 0.0) + parts.get("experts", 0.0)
    return mlp / sum(parts.values()), mlp / sum(value for name, value in parts.items() if name != "logits")
