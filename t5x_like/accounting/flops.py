# SPDX-License-Identifier: Apache-2.0
"""How many floating-point operations a token takes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t5x_like.accounting.hardware import Chip
from t5x_like.accounting.parameters import (
    count_parameters,
    is_table,
    ordered,
    parameters,
    part_of,
    size,
    tuned_parameters,
)
from t5x_like.config import ModelConfig, RunConfig, TransformerConfig
from t5x_like.config.attention import band

if TYPE_CHECKING:
    from t5x_like.models.layers.parameters import ParamSpec

BACKWARD = 2  # times forward: every product has two operands, and the gradient of each is a product of the same size

Lengths = float | Mapping[str, float]  # tokens of a sequence, by stream; one number where all have as many


def forward_flops(
    config: ModelConfig,
    lengths: Lengths,
    *,
    full_attention: bool = False,
    counts: Callable[[str], bool] = lambda name: True,
) -> dict[str, float]:
    """FLOPs of a forward pass of a resolved model, part by part, for each token of the stream whose tokens are targets.

    A product with a matrix of n elements takes 2 n FLOPs a token. Attention's two products, q k^T and weights v, take
    4 T H C together without a mask; a causal mask leaves half of that, and other kinds of attention what their `flops`
    says. Elementwise work (lookups, norms, the softmax) is not counted: it runs beside the products, not instead of
    them. Experts count as the networks that a token is sent to: slots that stay empty are computed, but on nothing.

    Args:
      lengths: tokens of a sequence; an encoder's are added to the work of the decoder's tokens. With "targets" among
        them, so many of the decoder's are targets: the others are added, too, but for their logits.
      full_attention: count masked pairs too, as PaLM's appendix B and Chinchilla's appendix F do.
      counts: whether the matrix of a name is counted.
    """
    if not isinstance(lengths, Mapping):
        lengths = dict.fromkeys(config.streams, lengths)
    lengths = config.lengths(lengths)
    targets = lengths.get("targets", lengths[config.streams[-1]])
    lengths["targets"] = targets  # what a row's targets meet, each once
    by_part: dict[str, float] = {}
    for name, spec in parameters(config):
        often = lengths[spec.stream] / targets
        if spec.is_matrix and not spec.lookup and counts(name):
            part, tokens = ("logits", 1.0) if is_table(spec) else (part_of(name), often)
            by_part[part] = by_part.get(part, 0.0) + 2.0 * tokens * spec.met * size(spec)
        if spec.attends is not None:
            met = spec.attends.stream
            keys = lengths.get(f"{met}_each", lengths[met])  # that a query may look at: of images, one's
            scores = _scores(config, spec, lengths[spec.stream], keys, full_attention)
            by_part["attention_scores"] = by_part.get("attention_scores", 0.0) + often * scores
    return ordered(by_part)


def _scores(config: ModelConfig, query: "ParamSpec", length: float, kv_length: float, full_attention: bool) -> float:
    """FLOPs of one token in the two products of attention that no weight takes part in, over all layers."""
    sizes = dict(zip(query.axes, query.shape, strict=True))
    channels = math.prod(n for axis, n in sizes.items() if axis == "layers" or axis in query.out_axes)
    assert query.attends is not None
    if query.attends.kind is not None and not full_attention:
        assert isinstance(config, TransformerConfig)
        return query.met * sizes["layers"] * query.attends.kind.flops(config, length, query.attends.causal)
    allowed = mean_keys(length, kv_length, query.attends.causal, query.attends.window)
    return 4.0 * query.met * channels * (kv_length if full_attention else allowed)


def mean_keys(length: float, kv_length: float, causal: bool, window: int | None) -> float:
    """Keys that a query attends to, averaged over T queries: the allowed area of the T x S rectangle, divided by T.

    The diagonal counts half, so that a causal mask leaves exactly half of the square, and a window of W keys the band
    below the diagonal: W - W^2 / 2T. Without causality a window has such a band on each side.
    """
    if window is None:
        return length / 2 if causal else float(kv_length)
    return band(length, window, causal)


def flops_per_token(
    config: ModelConfig,
    lengths: Lengths,
    *,
    full_attention: bool = False,
    trained: Callable[[str], bool] = lambda name: True,
) -> float:
    """FLOPs of a training token, forward and backward, attention and logits included. See `forward_flops`.

    Recomputation (rematerialised layers) is not counted: it is how the gradient is computed, not what it is. A matrix
    that is not `trained`, by its name, has no gradient of its own, but what enters it has; unless that is pixels.
    """
    forward = sum(forward_flops(config, lengths, full_attention=full_attention).values())
    frozen = forward_flops(config, lengths, counts=lambda name: not trained(name))
    pixels = forward_flops(config, lengths, counts=lambda name: name.endswith("patch_embedding/kernel"))
    without = sum(flops for each in (frozen, pixels) for part, flops in each.items() if part != "attention_scores")
    return (1 + BACKWARD) * forward - without


def flops_per_target(config: RunConfig, **how: Any) -> float:
    """`flops_per_token` of a resolved run, with what its rows hold beside their targets."""
    model, data, how = config.model, config.data, {"trained": config.trains, **how}
    pairs = (
        n * length / data.sequence_length * flops_per_token(model, length, **how) for length, n in data.beside.items()
    )
    return flops_per_token(model, data.mean_lengths, **how) + sum(pairs)


def flops_per_token_6n(config: ModelConfig) -> float:
    """The usual estimate 6 N, with N the active parameters outside the tables (Kaplan et al. 2020)."""
    counts = count_parameters(config)
    return 6.0 * (counts.nonembedding - (counts.total - counts.active))


def accounting(config: RunConfig) -> dict[str, Any]:
    """Parameters and FLOPs of a resolved run, as accounting.json holds them.

    The first five fields are fixed: other programs read them. FLOPs are exact, forward and backward, for each token
    that is a target. `params` and `forward_flops_per_token` break the totals down by part; `params_trainable` is there
    where not all are trained, and `params_added` where a tuning method adds some, whose few FLOPs are not counted.
    """
    model, trained = config.model, config.trains
    counts = count_parameters(model)
    content = {
        "params_total": counts.total,
        "params_nonembedding": counts.nonembedding,
        "params_active": counts.active,
        "flops_per_token": flops_per_target(config),
        "flops_per_token_6n": flops_per_token_6n(model),
        "flops_per_token_full_attention": flops_per_target(config, full_attention=True),
        "params": counts.by_part,
        "forward_flops_per_token": forward_flops(model, config.data.mean_lengths),
    }
    specs = tuned_parameters(config)
    trainable = sum(size(spec) for name, spec in specs if trained(name))
    if trainable == counts.total:
        return content
    added = sum(size(spec) for _, spec in specs) - counts.total
    return content | {"params_trainable": trainable, **({"params_added": added} if added else {})}


# --- The roofline of attention (Williams et al. 2009): what it computes, what it moves, and which of them bounds it ---


@dataclass(frozen=True)
class AttentionCost:
    """One layer's attention, forward, for one token, beside its linear maps."""

    flops: float  # of the products of queries, keys and values
    bytes: float  # that a kernel moves at least: queries, keys and values once in, values once out

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
    moved = 2.0 * (config.num_heads + config.num_kv_heads) * config.head_dim * width
    return AttentionCost(forward_flops(config, length)["attention_scores"] / config.stacks[0], moved)


def feed_forward_share(config: TransformerConfig, length: int) -> tuple[float, float]:
    """Of a token's FLOPs, those of the feed-forward networks: of all, and of those of the layers alone."""
    parts = forward_flops(config, length)
    mlp = parts.get("feed_forward", 0.0) + parts.get("experts", 0.0)
    return mlp / sum(parts.values()), mlp / sum(value for name, value in parts.items() if name != "logits")
