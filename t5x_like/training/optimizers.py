# SPDX-License-Identifier: Apache-2.0
"""Optimizers as pure functions of their configs.

An optimizer here returns the direction of the update; the step multiplies it by minus the learning rate, which it gets
as a number. Decoupled weight decay is part of the direction, and so are the rules that make some parameters faster.
What a parameter is comes from its ParamSpec: which of its dimensions are a matrix's and which only stack layers.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import unflatten_dict
from jax.tree_util import DictKey, GetAttrKey

from t5x_like.config import AdafactorConfig, AdamWConfig, LionConfig, MuonConfig, OptimizerConfig, SGDConfig
from t5x_like.models.layers.parameters import Params, ParamSpec, map_specs, named_specs
from t5x_like.training.adafactor import scale_by_adafactor
from t5x_like.training.eight_bit import scale_by_eight_bit_adam, scales_spec
from t5x_like.training.matrices import dimensions
from t5x_like.training.muon import is_hidden, scale_by_muon
from t5x_like.training.parameter_rules import depths_of, layer_numbers, multipliers, path_name


def build_optimizer(
    config: OptimizerConfig,
    specs: Params,
    factors: Params | None = None,
    order: Callable[[int], np.ndarray] = np.arange,
) -> optax.GradientTransformation:
    """Returns the optimizer without its learning rate: clipping, the optimizer's own scaling, decay, rules by name.

    Its `update` takes `step` beside gradients, state and parameters, where it thaws layers. `specs` are of what is
    trained, `factors` their `mup.Factors`, `order` as `layer_numbers` takes it. Raises UserError: rules that leave a
    parameter out, or that no parameter needs."""
    rates, decay = _learning_rates(config, specs), config.layer_decay
    if decay is not None:
        below = _below_the_top(specs, order)
        rates = map_specs(lambda _, rate, number: rate * np.float32(decay**number), specs, rates, below)
    decays = _weight_decays(config, specs)
    if factors is not None:
        rates = map_specs(lambda _, rate, factor: rate * factor.rate, specs, rates, factors)
        decays = map_specs(lambda _, decay, factor: decay * factor.decay, specs, decays, factors)
    parts = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    parts += _scaling(config, specs)
    if config.weight_decay:
        parts.append(_stateless(lambda update, param, decay: update + decay * param if decay else update, decays))
    if any(np.any(rate != 1) for rate in jax.tree.leaves(rates)):
        parts.append(_stateless(lambda update, _, rate: rate * update, rates))
    if config.unfreeze_steps is not None:
        parts.append(_unfreezing(config.unfreeze_steps, _below_the_top(specs, order)))
    return optax.chain(*parts or [optax.identity()])


def _weight_decays(config: OptimizerConfig, specs: Params) -> Params:
    """The decay of every parameter: by its rules, else of everything that is a matrix, tables included."""
    if config.weight_decay_rules:
        factors = multipliers(config.weight_decay_rules, specs, "optimizer.weight_decay_rules")
    else:
        factors = map_specs(lambda spec: float(spec.is_matrix), specs)
    return jax.tree.map(lambda factor: config.weight_decay * factor, factors)


def _learning_rates(config: OptimizerConfig, specs: Params) -> Params:
    rates = map_specs(lambda _: 1.0, specs)
    if config.learning_rate_rules:
        rates = multipliers(config.learning_rate_rules, specs, "optimizer.learning_rate_rules")
    if isinstance(config, MuonConfig):
        slow = map_specs(lambda spec: 1.0 if is_hidden(spec) else config.adamw_multiplier, specs)
        rates = jax.tree.map(lambda rate, factor: rate * factor, rates, slow)
    return rates


def _below_the_top(specs: Params, order: Callable[[int], np.ndarray]) -> Params:
    """How far below the top a parameter lies: L - l of layer l of L from 0, L + 1 of tables that tokens are looked up
    in, 0 of what is above the layers. A stack's is int [layers, 1, ...]."""
    numbers = layer_numbers(specs, order)
    depths = depths_of(numbers)
    most = max(depths.values(), default=0)
    below: dict[str, Any] = {}
    for name, spec in named_specs(specs).items():
        below[name] = np.array(most + 1 if spec.is_looked_up else 0)
        if name in numbers:
            stack, layers = numbers[name]
            below[name] = (depths[stack] - layers).reshape(
                [len(layers) if axis == "layers" else 1 for axis in spec.axes]
            )
    return unflatten_dict(below, sep="/")


def _unfreezing(every: int, below: Params) -> optax.GradientTransformationExtraArgs:
    """Nothing moves the layers but the uppermost, until `every` steps later the next one below moves, too, and so on
    down to the tables (Howard and Ruder 2018, section 3.3)."""
    starts = jax.tree.map(lambda number: every * np.maximum(number - 1, 0), below)

    def update(updates: Any, state: Any, params: Any = None, *, step: jax.Array, **_: Any) -> Any:
        return jax.tree.map(lambda update, start: jnp.where(step >= start, update, 0), updates, starts), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _stateless(function: Callable[[Any, Any, float], Any], numbers: Params) -> optax.GradientTransformation:
    """Maps function(update, parameter, number) over the tree."""
    return optax.stateless(lambda updates, params: jax.tree.map(function, updates, params, numbers))


def _scaling(config: OptimizerConfig, specs: Params) -> list[optax.GradientTransformation]:
    """From gradients to directions, as the kind of optimizer has it."""
    match config:
        case AdamWConfig(eight_bit=True):
            return [scale_by_eight_bit_adam(config, specs)]
        case AdamWConfig():
            return [optax.scale_by_adam(config.b1, config.b2, config.epsilon)]
        case AdafactorConfig():
            momentum = [optax.ema(config.b1, debias=False)] if config.b1 else []
            return [scale_by_adafactor(config, specs), *momentum]
        case LionConfig():
            return [optax.scale_by_lion(config.b1, config.b2)]
        case MuonConfig():
            kinds = map_specs(lambda spec: "muon" if is_hidden(spec) else "adamw", specs)
            hidden = map_specs(lambda spec: spec if is_hidden(spec) else optax.MaskedNode(), specs)
            adam = optax.scale_by_adam(config.adamw_b1, config.adamw_b2, config.adamw_epsilon)
            return [optax.partition({"muon": scale_by_muon(config, hidden), "adamw": adam}, kinds)]
        case SGDConfig():
            return [optax.trace(config.momentum, config.nesterov)] if config.momentum else []


def state_specs(state: Any, specs: Params) -> Any:
    """Returns the ParamSpec of every leaf of an optimizer's state, so that it is cut over a mesh as its parameter is.

    A moment is found by its path, which ends in the name of its parameter. One of a parameter's shape has all its axes,
    and so have `codes` of eight bits; `rows` and `columns` of a factored one have those that are left. The state is of
    arrays or their shapes, as `build_optimizer(config, specs).init` gives it.
    """
    by_name = named_specs(specs)

    def find(path: tuple[Any, ...], leaf: Any) -> ParamSpec:
        if not leaf.shape:
            return ParamSpec((), ())
        part = path[-1].name if isinstance(path[-1], GetAttrKey) else "whole"
        keys = reversed(path[:-1] if part != "whole" else path)
        name = [*itertools.takewhile(lambda key: isinstance(key, DictKey), keys)][::-1]
        spec = by_name[path_name(tuple(name))]
        if part == "scales":
            found = scales_spec(spec)
        else:
            dims = dimensions(spec)
            gone = {"whole": (), "codes": (), "rows": dims.columns, "columns": dims.rows}[part]
            kept = [dim for dim in range(len(spec.shape)) if dim not in gone]
            found = ParamSpec(tuple(spec.shape[dim] for dim in kept), tuple(spec.axes[dim] for dim in kept))
        assert found.shape == leaf.shape, (path, found.shape, leaf.shape)
        return found

    return jax.tree_util.tree_map_with_path(find, state)
