# SPDX-License-Identifier: Apache-2.0
"""What a model consists of and how many parameters it has, read from its ParamSpecs: shapes alone, nothing is drawn.

Models are imported when the first is asked for: what only counts seconds and chips need not wait for JAX.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from t5x_like.config import ModelConfig, RunConfig

if TYPE_CHECKING:
    from t5x_like.models.layers.parameters import ParamSpec

T = TypeVar("T")

# What a parameter belongs to, by the innermost module of its name that is listed; another module is a part by itself.
PARTS = {
    "token_embedding": "embeddings",
    "position_embedding": "embeddings",
    "attention": "attention",
    "cross_attention": "cross_attention",
    "relative_bias": "attention",
    "mlp": "feed_forward",
    "cross_mlp": "cross_attention",
    "projector": "projector",
    "experts": "experts",
    "router": "router",
    "logits": "logits",
    "layers": "recurrent",  # of models whose layers have no parts
}
ORDER = ("embeddings", "attention", "attention_scores", "cross_attention", "feed_forward", "experts", "router", "norms")
TABLE_AXES = ("vocab", "positions")  # of tables that N non-embedding leaves out: tokens, positions, logits


@lru_cache(maxsize=64)
def parameters(config: ModelConfig) -> "tuple[tuple[str, ParamSpec], ...]":
    """The name and the spec of every parameter of a resolved model config; stacked layers are one."""
    from t5x_like.models import build_model
    from t5x_like.models.layers.parameters import named_specs

    return tuple(named_specs(build_model(config).specs()).items())


def tuned_parameters(config: RunConfig) -> "tuple[tuple[str, ParamSpec], ...]":
    """The same of a run: with what its tuning method adds."""
    from t5x_like.models import build_model
    from t5x_like.models.layers.parameters import named_specs
    from t5x_like.tuning import tuned_specs

    return tuple(named_specs(tuned_specs(build_model(config.model).specs(), config.tuning)).items())


def part_of(name: str) -> str:
    """Which part a parameter is counted with."""
    modules = [module for module in name.split("/")[:-1] if not module.isdigit()]
    for module in reversed(modules):
        if module.endswith("_norm"):
            return "norms"
        if module in PARTS:
            return PARTS[module]
    return modules[-1]


def ordered(by_part: dict[str, T]) -> dict[str, T]:
    """The same in the order in which parts are told: those of `ORDER`, the others, logits."""
    others = [name for name in by_part if name not in ORDER and name != "logits"]
    return {name: by_part[name] for name in (*ORDER, *others, "logits") if name in by_part}


def size(spec: "ParamSpec") -> int:
    """Elements of a parameter, over all layers."""
    return math.prod(spec.shape)


def is_table(spec: "ParamSpec") -> bool:
    return any(axis in TABLE_AXES for axis in spec.axes)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters, counted as the literature does."""

    total: int  # every element stored
    nonembedding: int  # without token, position and unembedding tables (the N of Kaplan et al. 2020)
    active: int  # without what a token does not meet, such as experts that it is not sent to
    by_part: dict[str, int]  # the total, part by part


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Counts the parameters of a resolved config."""
    tables, active = 0, 0.0
    by_part: dict[str, int] = {}
    for name, spec in parameters(config):
        tables += size(spec) if is_table(spec) else 0
        active += min(spec.met, 1.0) * size(spec)
        by_part[part_of(name)] = by_part.get(part_of(name), 0) + size(spec)
    total = sum(by_part.values())
    return ParameterCount(total, total - tables, round(active), ordered(by_part))
