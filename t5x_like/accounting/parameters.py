# SPDX-License-Identifier: Apache-2.0
"""How many parameters a config has."""

from dataclasses import dataclass

from t5x_like.config import DecoderOnlyConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by what they do.

    Attributes:
      embedding: token, position and unembedding tables (a tied table counts once).
      matrices: kernels of the layers, which every token is multiplied by.
      vectors: biases and norms.
      unembedding: elements of the matrix that makes logits, tied or not; a subset of `embedding`.
    """

    embedding: int
    matrices: int
    vectors: int
    unembedding: int

    @property
    def total(self) -> int:
        return self.embedding + self.matrices + self.vectors

    @property
    def nonembedding(self) -> int:
        """Total minus token, position and unembedding tables (the N of Kaplan et al. 2020)."""
        return self.matrices + self.vectors

    @property
    def active(self) -> int:
        """Parameters that one token meets: all of them, for a dense model."""
        return self.total


def count_parameters(config: DecoderOnlyConfig) -> ParameterCount:
    """Counts the parameters of a resolved config."""
    c = config
    assert c.num_kv_heads and c.head_dim and c.mlp_dim and c.vocab_size and c.max_length
    query, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    wide = 2 if c.gated_mlp else 1
    matrices = c.d_model * (2 * query + 2 * kv) + c.d_model * c.mlp_dim * (wide + 1)
    norm = c.d_model * (2 if c.use_bias else 1)
    biases = (query + 2 * kv + c.d_model) + (wide * c.mlp_dim + c.d_model) if c.use_bias else 0
    table = c.vocab_size * c.d_model
    return ParameterCount(
        embedding=table * (1 if c.tie_embeddings else 2)
        + (c.max_length * c.d_model if c.positions == "learned" else 0),
        matrices=c.num_layers * matrices,
        vectors=c.num_layers * (2 * norm + biases) + (norm if c.norm_position == "pre" else 0),
        unembedding=table,
    )
