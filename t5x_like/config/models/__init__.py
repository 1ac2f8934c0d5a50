# SPDX-License-Identifier: Apache-2.0
"""The kinds of model: a file for each family."""

from typing import TYPE_CHECKING

from t5x_like.config.models.base import ModelConfig, TransformerConfig
from t5x_like.config.models.decoder_only import DecoderOnlyConfig
from t5x_like.config.models.experts import ExpertsConfig
from t5x_like.kinds import kinds_in

if TYPE_CHECKING:
    AnyModelConfig = ModelConfig
else:
    AnyModelConfig = kinds_in(__name__, ModelConfig)
