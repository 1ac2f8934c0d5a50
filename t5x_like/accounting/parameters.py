# SPDX-License-Identifier: Apache-2.0
"""How many parameters a config has."""

from dataclasses import dataclass

from t5x_like.accounting.parts import is_table, ordered, parameters, part_of, size
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
    tables, active = 0, 0.0
    by_part: dict[str, int] = {}
    for name, spec in parameters(config):
        tables += size(spec) if is_table(spec) else 0
        active += spec.met * size(spec)
        by_part[part_of(name)] = by_part.get(part_of(name), 0) + size(spec)
    total = sum(by_part.values())
    return ParameterCount(total, total - tables, round(active), ordered(by_part))
