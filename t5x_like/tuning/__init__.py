# SPDX-License-Identifier: Apache-2.0
"""Methods that train a few parameters beside a model's own; each adds a kind of config and a file."""

from t5x_like.config import LoRAConfig, TuningConfig
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.tuning.low_rank import LowRankModel, merge_updates, with_updates


def tuned_model(model: Model, tuning: TuningConfig) -> Model:
    """The model with what a tuning method adds to it."""
    return LowRankModel(model, tuning) if isinstance(tuning, LoRAConfig) else model


def untuned(model: Model, params: Params) -> tuple[Model, Params]:
    """The base of a tuned model with parameters that compute the same, for whoever knows nothing of the method."""
    if not isinstance(model, LowRankModel):
        return model, params
    return model.base, merge_updates(params, model.base.specs(), model.tuning)


def tuned_specs(specs: Params, tuning: TuningConfig) -> Params:
    """The specs of a model with those that a tuning method adds."""
    return with_updates(specs, tuning) if isinstance(tuning, LoRAConfig) else specs
