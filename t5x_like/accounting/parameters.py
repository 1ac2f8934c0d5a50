# SPDX-License-Identifier: Apache-2.0
"""How many parameters a config has."""

from dataclasses import dataclass

from t5x_like.accounting.families import parts
from t5x_like.config import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters, counted as the literature does.

    Attributes:
      total: every element stored.
      nonembedding: total minus token, position and unembedding tables (the N of Kaplan et al. 2020).
      active: total minus what a token does not meet, such as experts that it is not sent to.
      by_part: the total, part by part.
    """

    total: int
    nonembedding: int
    active: int
    by_part: dict[str, int]


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Counts the parameters of a resolved config."""
    total = tables = idle = 0
    by_part: dict[str, int] = {}
    for part in parts(config):
        total += part.params
        tables += part.params if part.is_table else 0
        idle += part.idle
        by_part[part.name] = by_part.get(part.name, 0) + part.params
    return ParameterCount(total, total - tables, total - idle, by_part)
