# SPDX-License-Identifier: Apache-2.0
"""The maximal update parametrisation: what a parameter's initial value, learning rate and decay are multiplied by.

A parameter is held against itself in the base model. What its dimensions r times as large make of it, for optimizers
whose step does not depend on the gradient's size (Yang et al. 2022, table 8; r_in of what it contracts, r_out of what
it produces):

    r_out only (tables, biases, norms)   values as in the base       rate 1
    both (maps inside the layers)        values * r_in^-1/2          rate 1 / r_in
    r_in only (maps to logits)           values * 1 / r_in           rate 1 / r_in

Where the paper multiplies activations by m, the parameter that makes them has its values and its rate multiplied
instead, which comes to the same for these optimizers, so no layer knows of it:

    a table that makes the logits too    m = 1 / r of the width, on the scale of the norm before it
    queries, heads r times as wide       m = r^-1/2, so that logits go with 1 / head_dim
    maps back to the stream, CompleteP   m = 1 / r of the number of layers (Dey et al. 2025, table 1, alpha = 1)

Decoupled decay is multiplied by one over the rate's factor, so a step takes the same part of a parameter at any size.

Differs from the papers: Adam's epsilon is not scaled; it should be small.
"""

import math
from typing import Any, NamedTuple

from t5x_like.config import ModelConfig
from t5x_like.config.parametrisation import MupConfig
from t5x_like.errors import UserError
from t5x_like.models import build_model
from t5x_like.models.layers.parameters import Constant, Normal, Params, ParamSpec, map_specs, named_specs


class Factors(NamedTuple):
    """Of one parameter."""

    init: float
    rate: float
    decay: float


def factors(model: ModelConfig, parametrisation: MupConfig) -> Params:
    """Returns the tree of Factors of a model's parameters. Raises UserError: a base with other parameters, or a model
    for whose tied logits nothing can be multiplied."""
    base = parametrisation.base
    assert base is not None
    specs, of_base = (build_model(each).specs() for each in (model, base))
    named, named_base = named_specs(specs), named_specs(of_base)
    if named.keys() != named_base.keys():
        odd = sorted(named.keys() ^ named_base.keys())[0]
        raise UserError(f"parametrisation.base: only one of it and the model has a parameter {odd!r}")
    depth = model.depth / base.depth if parametrisation.depth == "complete_p" else 1.0
    made = {name: _factors(name, named, named_base, depth) for name in named}
    _through_the_norm(made, named, named_base)
    names = iter(named)
    return map_specs(lambda _: made[next(names)], specs)


def _factors(name: str, specs: dict[str, ParamSpec], base: dict[str, ParamSpec], depth: float) -> Factors:
    spec = specs[name]
    kernel = f"{name.removesuffix('bias')}kernel"  # a bias makes the same activations as the kernel beside it
    is_map = name.endswith(("kernel", "bias"))
    made = _activations(specs.get(kernel, spec), base.get(kernel, base[name]), depth) if is_map else 1.0
    into, out = (_ratio(axes, spec, base[name]) for axes in (spec.in_axes, spec.out_axes))
    values, rate = 1.0, 1.0
    if spec.is_matrix and not spec.lookup and into != 1:
        values, rate = (into**-0.5 if out != 1 else 1 / into), 1 / into
    values *= _spread(base[name]) / _spread(spec)
    return Factors(values * made, rate * made, 1 / (rate * made))


def _activations(spec: ParamSpec, base: ParamSpec, depth: float) -> float:
    """m of the activations that a kernel makes."""
    if spec.attends is not None:
        return math.sqrt(base.shape[base.axes.index("head_dim")] / spec.shape[spec.axes.index("head_dim")])
    back_to_the_stream = "layers" in spec.axes and spec.is_matrix and spec.out_axes == ("embed",)
    return 1 / depth if back_to_the_stream else 1.0


def _ratio(axes: tuple[str, ...], spec: ParamSpec, base: ParamSpec) -> float:
    own, others = (math.prod(each.shape[each.axes.index(axis)] for axis in axes) for each in (spec, base))
    return own / others


def _spread(spec: ParamSpec) -> float:
    """The standard deviation of initial values, or 1 of what is not drawn."""
    return spec.init.stddev if isinstance(spec.init, Normal) else 1.0


def _through_the_norm(made: dict[str, Factors], specs: dict[str, ParamSpec], base: dict[str, ParamSpec]) -> None:
    """Of a model that has no map to its logits of its own, the norm before them takes their factor."""
    tables = [name for name, spec in specs.items() if spec.axes == ("vocab", "embed") and not spec.lookup]
    if not tables:
        return
    width = _ratio(("embed",), specs[tables[0]], base[tables[0]])
    norms = [name for name in specs if name.endswith("final_norm/scale")]
    scale: Any = specs[norms[-1]].init if norms else None
    if width != 1 and not (isinstance(scale, Constant) and scale.value):
        raise UserError(
            "parametrisation.kind='mup': this model has no norm before its tied logits whose scale could take "
            "their factor; accepted: model.tie_embeddings=False"
        )
    if norms:
        made[norms[-1]] = Factors(1 / width, 1 / width, width)
