# SPDX-License-Identifier: Apache-2.0
"""The kinds of objective."""

from typing import TYPE_CHECKING

from t5x_like.config.objectives.base import ObjectiveConfig
from t5x_like.config.objectives.cross_entropy import CausalLMConfig, CrossEntropyConfig
from t5x_like.config.objectives.labels import LabelsConfig
from t5x_like.kinds import kinds_in

if TYPE_CHECKING:
    AnyObjectiveConfig = ObjectiveConfig
else:
    AnyObjectiveConfig = kinds_in(__name__, ObjectiveConfig)
