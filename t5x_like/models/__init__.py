# SPDX-License-Identifier: Apache-2.0
"""Model families: pure functions `init(key) -> params` and `apply(params, batch) -> outputs`, one file each."""

import importlib

from t5x_like.config import ModelConfig
from t5x_like.models.model import Model


def build_model(config: ModelConfig) -> Model:
    """Returns the model that a resolved model config describes: of the file that is called like its config's."""
    file = type(config).__module__.rpartition(".")[2]
    return importlib.import_module(f"t5x_like.models.{file}").build(config)
