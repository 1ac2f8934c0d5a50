# SPDX-License-Identifier: Apache-2.0
"""The parts that models are made of, as counts. A family lists its parts; sums over them are the accounting."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One kind of part, over all layers that have it.

    Attributes:
      name: "embeddings", "attention", "attention_scores", "feed_forward", "experts", "router", "norms" or "logits";
        families may add more.
      params: elements stored.
      idle: those of them that a token does not meet, such as experts that it is not sent to.
      kernels: those of them that are matrices; the others are biases and norms.
      sides: rows and columns of every such matrix, added up.
      multiplied: elements of the matrices that a token is multiplied by, wherever those are stored.
      is_hidden: whether its matrices map between hidden layers; Muon takes those.
      is_table: whether `params` are token, position or unembedding tables, which N non-embedding leaves out.
      channels: heads times head width, summed over layers, of attention's two products q k^T and weights v.
      causal: whether those products are masked to the past.
      window: keys that a query may look back on, its own among them; None for all.
    """

    name: str
    params: int = 0
    idle: int = 0
    kernels: int = 0
    sides: int = 0
    multiplied: int = 0
    is_hidden: bool = True
    is_table: bool = False
    channels: int = 0
    causal: bool = True
    window: int | None = None

    def times(self, layers: int) -> "Part":
        """The same part in that many layers."""
        names = ("params", "idle", "kernels", "sides", "multiplied", "channels")
        return dataclasses.replace(self, **{name: layers * getattr(self, name) for name in names})

    def flops(self, length: int, full_attention: bool = False) -> float:
        """FLOPs of one token of a sequence of `length`, forward: two for every multiply and add.

        Args:
          length: T, the tokens of the sequence.
          full_attention: count every pair of a query and a key, masked or not, as a program without a fused kernel
            computes them. Otherwise a causal mask leaves half of the square.
        """
        keys = float(length) if full_attention else mean_keys(length, self.causal, self.window)
        return 2.0 * self.multiplied + 4.0 * self.channels * keys


def mean_keys(length: int, causal: bool, window: int | None) -> float:
    """Keys that a query attends to, averaged over a sequence: the allowed area of the T x T square, divided by T.

    The diagonal counts half, so that a causal mask leaves exactly half of the square, and a window of W keys the band
    below the diagonal: W - W^2 / 2T.
    """
    if not causal:
        if window is not None:
            raise ValueError(f"window={window}: only causal attention has one")
        return float(length)
    reach = length if window is None else min(window, length)
    return reach - reach**2 / (2 * length)


def attention(width: int, heads: int, kv_heads: int, head_dim: int, bias: bool) -> Part:
    """Projections of one attention layer: queries, keys, values and back."""
    biases = head_dim * (heads + 2 * kv_heads) + width if bias else 0
    return _matrices("attention", [(width, head_dim * number) for number in (heads, kv_heads, kv_heads, heads)], biases)


def attention_scores(heads: int, head_dim: int, causal: bool, window: int | None = None) -> Part:
    """The two products of one attention layer that no weight takes part in."""
    return Part("attention_scores", channels=heads * head_dim, causal=causal, window=window)


def feed_forward(width: int, hidden: int, gated: bool, bias: bool) -> Part:
    """One feed-forward layer: up, gate when `gated`, and out."""
    ups = 2 if gated else 1
    return _matrices("feed_forward", (ups + 1) * [(width, hidden)], ups * hidden + width if bias else 0)


def experts(width: int, hidden: int, gated: bool, bias: bool, number: int, per_token: int) -> Part:
    """`number` feed-forward networks side by side, of which a token meets `per_token`; where it is dropped, fewer.

    FLOPs are those of `per_token` networks: slots that stay empty are computed, but on nothing.
    """
    one = feed_forward(width, hidden, gated, bias)
    idle, multiplied = (number - per_token) * one.params, per_token * one.kernels
    return dataclasses.replace(one.times(number), name="experts", idle=idle, multiplied=multiplied)


def router(width: int, experts: int) -> Part:
    """What gives every token a logit for every expert."""
    return dataclasses.replace(_matrices("router", [(width, experts)]), is_hidden=False)


def norm(width: int, bias: bool) -> Part:
    """One norm: a scale, and a bias if there is one."""
    return Part("norms", params=width * (2 if bias else 1))


def table(rows: int, width: int) -> Part:
    """A table of embeddings; looking a row up takes no FLOPs."""
    elements = rows * width
    return Part("embeddings", params=elements, kernels=elements, sides=rows + width, is_table=True, is_hidden=False)


def logits(vocab_size: int, width: int, tied: bool) -> Part:
    """The product with the vocabulary; a tied one stores nothing of its own."""
    if tied:
        return Part("logits", multiplied=vocab_size * width, is_table=True, is_hidden=False)
    return dataclasses.replace(_matrices("logits", [(width, vocab_size)]), is_table=True, is_hidden=False)


def _matrices(name: str, shapes: Sequence[tuple[int, int]], biases: int = 0) -> Part:
    """Matrices that every token is multiplied by, and biases."""
    kernels = sum(rows * columns for rows, columns in shapes)
    sides = sum(rows + columns for rows, columns in shapes)
    return Part(name, params=kernels + biases, kernels=kernels, sides=sides, multiplied=kernels)
