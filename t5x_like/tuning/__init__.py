# SPDX-License-Identifier: Apache-2.0
"""Methods that train a few parameters beside a model's own; each adds a kind of config and a file."""

from collections.abc import Callable
from typing import Any

from t5x_like.config import AdapterConfig, IA3Config, LoRAConfig, TuningConfig
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.tuning.bottleneck import BottleneckMethod
from t5x_like.tuning.ia3 import IA3Method
from t5x_like.tuning.low_rank import LowRankMethod
from t5x_like.tuning.method import Method, TunedModel, merge, tune, with_added

METHODS: dict[type, Callable[[Any], Method]] = {
    LoRAConfig: LowRankMethod,
    IA3Config: IA3Method,
    AdapterConfig: BottleneckMethod,
}


def tuned_model(model: Model, tuning: TuningConfig) -> Model:
    """The model with what a tuning method adds to it."""
    return tune(model, METHODS[type(tuning)](tuning)) if type(tuning) in METHODS else model


def over(model: Model, base: Model) -> Model:
    """A model that differs from the base of another only in how it runs, tuned as that one is."""
    return tune(base, model.method) if isinstance(model, TunedModel) else base


def tuned_specs(specs: Params, tuning: TuningConfig) -> Params:
    """The specs of a model with those that a tuning method adds."""
    return with_added(specs, METHODS[type(tuning)](tuning)) if type(tuning) in METHODS else specs


def untuned(model: Model, params: Params) -> tuple[Model, Params]:
    """The base of a tuned model with parameters that compute the same, for whoever knows nothing of the method.

    Raises:
      UserError: a method whose parameters cannot be put into the base's.
    """
    if not isinstance(model, TunedModel):
        return model, params
    return model.base, merge(params, model.base.specs(), model.method)
