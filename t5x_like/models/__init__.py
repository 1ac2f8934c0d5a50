# SPDX-License-Identifier: Apache-2.0
"""Model families: pure functions `init(key) -> params` and `apply(params, batch) -> outputs`."""

from t5x_like.config import ModelConfig
from t5x_like.models.decoder_only import DecoderOnly
from t5x_like.models.model import Model

FAMILIES = {"decoder_only": DecoderOnly}


def build_model(config: ModelConfig) -> Model:
    """Returns the model that a resolved model config describes."""
    return FAMILIES[config.kind](config)
