# SPDX-License-Identifier: Apache-2.0
"""Objectives: from a model and a batch to sums and weights, divided once, after all accumulation."""

from t5x_like.config import ObjectiveConfig
from t5x_like.objectives.causal_lm import CausalLM
from t5x_like.objectives.task import Task

OBJECTIVES = {"causal_lm": CausalLM}


def build_objective(config: ObjectiveConfig) -> Task:
    """Returns the objective that a config describes."""
    return OBJECTIVES[config.kind](config)
