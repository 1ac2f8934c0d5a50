# SPDX-License-Identifier: Apache-2.0
"""Objectives: from a model and a batch to sums and weights, divided once, after all accumulation. One file a loss."""

import importlib

from t5x_like.config import ObjectiveConfig
from t5x_like.objectives.task import Task


def build_objective(config: ObjectiveConfig) -> Task:
    """Returns the objective that a config describes: of the file that is called like its config's."""
    file = type(config).__module__.rpartition(".")[2]
    return importlib.import_module(f"t5x_like.objectives.{file}").build(config)
