# SPDX-License-Identifier: Apache-2.0
"""Methods that train a few parameters beside a model's own; each adds a kind of config and a file."""

from collections.abc import Callable
from typing import Any

from t5x_like.config import (
    AdapterConfig,
    IA3Config,
    LoRAConfig,
    PrefixConfig,
    PromptConfig,
    QuantisationConfig,
    TuningConfig,
)
from t5x_like.models.layers.parameters import Params
from t5x_like.models.model import Model
from t5x_like.quantisation import QuantisedModel, dequantised, quantised_model, stored_specs
from t5x_like.tuning.bottleneck import BottleneckMethod
from t5x_like.tuning.ia3 import IA3Method
from t5x_like.tuning.low_rank import LowRankMethod
from t5x_like.tuning.method import Method, TunedModel, merge, tune, with_added
from t5x_like.tuning.prompt import PrefixMethod, PromptMethod

METHODS: dict[type, Callable[[Any], Method]] = {
    LoRAConfig: LowRankMethod,
    IA3Config: IA3Method,
    AdapterConfig: BottleneckMethod,
    PromptConfig: PromptMethod,
    PrefixConfig: PrefixMethod,
}


def tuned_model(model: Model, tuning: TuningConfig, quantisation: QuantisationConfig | None = None) -> Model:
    """The model with what a tuning method adds to it, its kernels in few bits where that is asked for."""
    tuned = tune(model, METHODS[type(tuning)](tuning)) if type(tuning) in METHODS else model
    made: Model = quantised_model(tuned, quantisation)
    return made


def over(model: Model, base: Model) -> Model:
    """A model that differs from the base of another only in how it runs, tuned as that one is."""
    if isinstance(model, QuantisedModel):
        return quantised_model(over(model.inner, base), model.how)
    return tune(base, model.method) if isinstance(model, TunedModel) else base


def base_of(model: Any) -> tuple[Model, str] | None:
    """A tuned model without what its method adds, and what that is called beside a kernel; None: it is not tuned."""
    if isinstance(model, QuantisedModel):
        found = base_of(model.inner)
        return found and (quantised_model(found[0], model.how), found[1])
    return (model.base, model.method.beside) if isinstance(model, TunedModel) else None


def tuned_specs(specs: Params, tuning: TuningConfig, quantisation: QuantisationConfig | None = None) -> Params:
    """The specs of a model with those that a tuning method adds, as they are kept."""
    specs = with_added(specs, METHODS[type(tuning)](tuning)) if type(tuning) in METHODS else specs
    return specs if quantisation is None or quantisation.aware else stored_specs(specs, quantisation)


def untuned(model: Model, params: Params, *, masters: bool = False) -> tuple[Model, Params]:
    """The base of a tuned model, or of one in few bits, with parameters that compute the same.
    Raises UserError: a method whose parameters cannot be put into the base's."""
    model, params = dequantised(model, params, masters=masters)
    if not isinstance(model, TunedModel):
        return model, params
    return model.base, merge(params, model.base.specs(), model.method)
