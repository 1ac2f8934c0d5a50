# SPDX-License-Identifier: Apache-2.0
"""From a law to the run it asks for: its size, shape, tokens, batch and rate, as a config that trains it.

Where the law comes from a sweep, the run is what the sweep's next cell would be: its base, with the fields that its
sizes vary carried on. Otherwise a config is scaled in its proportions, and batch and rate follow the step law (Li et
al. 2025, Predictable Scale part 1), the batch in sequences to the nearest power of two.
"""

import dataclasses
import itertools
import math
import pprint
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from t5x_like.accounting.flops import flops_per_token
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import MeshConfig, ModelConfig, RunConfig
from t5x_like.config.models import AnyModelConfig
from t5x_like.config_files import set_field
from t5x_like.errors import UserError, unknown_name
from t5x_like.files import read_json
from t5x_like.planning.plan import make_plan
from t5x_like.planning.roofline import Assumptions
from t5x_like.planning.topology import Slice
from t5x_like.scaling.fitting.saved import Prediction, SavedFit
from t5x_like.scaling.laws.other_columns import STEP_BATCH, STEP_RATE
from t5x_like.strict import convert, without_defaults
from t5x_like.sweeps.design import SweepConfig

# Li et al. 2025, equation 1; params without the tables.
STEP_RATE_CONSTANTS = {"K": 1.79, "a": -0.713, "b": 0.307}
STEP_BATCH_CONSTANTS = {"K": 0.58, "b": 0.571}


@dataclass(frozen=True)
class NextRun:
    """A run that a law asks for, with what it says of it."""

    config: RunConfig
    params: float  # as the law counts them
    tokens: int
    flops: float  # 6 params tokens, what the law calls compute
    exact_flops: float
    wanted: tuple[float, float]  # the optimum's params and tokens, before they became a shape and whole steps
    prediction: Prediction


def next_run(fit: SavedFit, flops: float, base: Mapping[str, Any] | None = None, family: str | None = None) -> NextRun:
    """The compute-optimal run of a budget, 6 params tokens.

    `base` has a run config's fields to scale, rather than the sweep that the law comes from; `family` is another
    `model.kind`, with fields of the base as far as it has them. More than the law supports, no sweep and no base, or no
    shape near the size is a `UserError`.
    """
    fit.check(flops, f"{flops:.3g} FLOPs")
    if fit.params_column == "params_compute":
        raise UserError(f"--fit={fit.path}: its law counts FLOPs as params; accepted: one that counts parameters")
    params, tokens = fit.optimum(flops)
    if not math.isfinite(params):
        raise UserError(f"{fit.path}: this law has no optimum at {flops:.3g} FLOPs")
    if base is None:
        folder = fit.sweep
        if folder is None:
            raise UserError(
                f"--fit={fit.path}: the sweep it was fitted to is not at {fit.source} any more; accepted: --config, a "
                "run config to scale"
            )
        config = _next_cell(fit, read_json(folder / "sweep.json")["design"], params, tokens, family)
    else:
        config = _in_proportion(fit, base, params, tokens, family)
    made = _count(config.model, fit)
    own = config.training.tokens
    assert own is not None
    exact = own * flops_per_token(config.model, config.data.sequence_length)
    return NextRun(config, made, own, 6.0 * made * own, exact, (params, tokens), fit.predict(made, own))


def _count(model: ModelConfig, fit: SavedFit) -> float:
    counts = count_parameters(model)
    return float(getattr(counts, fit.params_column.removeprefix("params_"), counts.nonembedding))


# --- A sweep carried on ---------------------------------------------------------------------------------------------


def _next_cell(fit: SavedFit, design: Mapping[str, Any], params: float, tokens: float, family: str | None) -> RunConfig:
    if design["arms"]:
        raise UserError(f"--fit={fit.path}: its sweep compares arms; accepted: --config, a run config to scale")
    sweep = convert(SweepConfig, design)
    rate = _best_rate(fit, sweep)
    fields = _Fields(fit, sweep, family)

    def run(width: int | None) -> RunConfig:
        content = fields.at(params, width)
        model = _probe(content).model
        scaled = rate * ((sweep.learning_rate_width or model.d_model) / model.d_model) ** sweep.learning_rate_power
        set_field(content, "optimizer.learning_rate", float(f"{scaled:.4g}"))
        set_field(content, "training.tokens", round(params * tokens / _count(model, fit)))
        return convert(RunConfig, content).resolve()

    return _nearest(fit, params, run, fields.step, fields.value("model.d_model", params))


class _Fields:
    """The fields that the sizes of a sweep vary, as powers of the number of parameters."""

    def __init__(self, fit: SavedFit, sweep: SweepConfig, family: str | None):
        self.base, self.sizes = _as_family(sweep.base, family), sweep.sizes
        names = sorted({name for size in sweep.sizes for name in size})
        if not self._numeric("model.d_model"):
            raise UserError(f"--fit={fit.path}: the sizes of its sweep vary {', '.join(names)}, and no model.d_model")
        models = [self._model(size) for size in sweep.sizes]
        counted = np.log([_count(model, fit) for model in models])
        grown = {name: np.log([float(size[name]) for size in sweep.sizes]) for name in names if self._numeric(name)}
        self.powers = {name: np.polyfit(counted, values, 1) for name, values in grown.items()}
        self.step = 1 if "model.num_heads" in self.powers else getattr(models[-1], "num_heads", 1)

    def _model(self, size: Mapping[str, Any]) -> ModelConfig:
        content = _copy(self.base)
        for name, value in size.items():
            set_field(content, name, value)
        return _probe(content).model

    def _numeric(self, name: str) -> bool:
        values = [size.get(name) for size in self.sizes]
        return all(isinstance(value, int) and not isinstance(value, bool) for value in values) and len({*values}) > 1

    def value(self, name: str, params: float) -> float:
        return math.exp(np.polyval(self.powers[name], math.log(params)))

    def at(self, params: float, width: int | None) -> dict[str, Any]:
        """The base with the fields of this size; widths and heads are those that divide."""
        content = _copy(self.base)
        for name, value in self.sizes[-1].items():
            grown = max(1, round(self.value(name, params))) if name in self.powers else value
            set_field(content, name, width if name == "model.d_model" and width else grown)
        heads = content["model"].get("num_heads")
        if "model.num_heads" in self.powers and width and heads and width % (2 * heads):
            dividing = [n for n in range(1, width // 2 + 1) if width % (2 * n) == 0] or [1]
            content["model"]["num_heads"] = min(dividing, key=lambda n: abs(math.log(n / heads)))
        return content


def _best_rate(fit: SavedFit, sweep: SweepConfig) -> float:
    """The rate, as for a model of `learning_rate_width`, that was best: of one it is that, else the cells' median."""
    if len(sweep.learning_rates) == 1:
        return sweep.learning_rates[0]
    folder = fit.sweep
    assert folder is not None
    points = fit.points()
    best = np.asarray(points.columns["learning_rate"], float)
    scaled = []
    for run, rate in zip(points.columns["run"], best, strict=True):
        model = read_json(folder / str(run) / "config.json")["model"]
        width = sweep.learning_rate_width or model["d_model"]
        scaled.append(rate * (model["d_model"] / width) ** sweep.learning_rate_power)
    return float(np.median(scaled))


# --- A config in its proportions ------------------------------------------------------------------------------------


def _in_proportion(
    fit: SavedFit, base: Mapping[str, Any], params: float, tokens: float, family: str | None
) -> RunConfig:
    """Depth grows as the width does, heads keep theirs; batch and rate by the step law."""
    base = _as_family(base, family)
    for name in ("steps", "examples", "epochs"):
        base.get("training", {}).pop(name, None)
    own = _probe(base, **base.get("training", {}))
    model: Any = own.model
    head = model.d_model // model.num_heads
    length = own.data.sequence_length
    rows = float(STEP_BATCH.predict(STEP_BATCH_CONSTANTS, {"tokens": tokens})) / length
    batch = 2 ** max(0, round(math.log2(rows)))  # the nearest that meshes divide
    rate = float(STEP_RATE.predict(STEP_RATE_CONSTANTS, {"params": params, "tokens": tokens}))

    def run(width: int | None) -> RunConfig:
        content = _copy(base)
        width = width or model.d_model
        share = width / model.d_model
        heads = max(1, round(width / head))
        shape = {"d_model": width, "num_layers": max(1, round(model.num_layers * share)), "num_heads": heads}
        shape |= {"mlp_dim": round(model.mlp_dim * share / 8) * 8 or 8}
        shape |= {"num_kv_heads": max(n for n in range(1, heads + 1) if heads % n == 0 and n <= model.num_kv_heads)}
        content["model"] = {**content.get("model", {}), **shape, "head_dim": head}
        set_field(content, "training.batch_size", batch)
        set_field(content, "training.microbatches", 1)
        set_field(content, "training.tokens", round(params * tokens / _count(_probe(content).model, fit)))
        if own.schedule.warmup_steps is not None:  # no more than a tenth of the run
            tenth = max(1, round(0.1 * tokens / (batch * length)))
            set_field(content, "schedule.warmup_steps", min(own.schedule.warmup_steps, tenth))
        set_field(content, "optimizer.learning_rate", float(f"{rate:.4g}"))
        return convert(RunConfig, content).resolve()

    return _nearest(fit, params, run, head, model.d_model * (params / _count(model, fit)) ** (1 / 3))


def _nearest(
    fit: SavedFit, params: float, run: Callable[[int | None], RunConfig], step: int, width: float
) -> RunConfig:
    """The run whose model comes nearest to so many parameters, of widths about `width`, multiples of `step`."""
    middle = max(1, round(width / step))
    tried, why = {}, ""
    for multiple in range(max(1, int(0.7 * middle) - 2), int(1.4 * middle) + 4):
        try:
            config = run(multiple * step)
        except UserError as error:  # a width that something does not divide
            why = str(error)
            continue
        tried[abs(math.log(_count(config.model, fit) / params))] = config
    if not tried:
        raise UserError(f"no shape of this base comes near {params:.3g} params ({why}); accepted: another --config")
    return tried[min(tried)]


def _probe(content: Mapping[str, Any], **training: Any) -> RunConfig:
    """A resolved run of these fields, however long; of its own training it has what is given."""
    return convert(RunConfig, {**content, "training": {**training, "tokens": 10**15}}).resolve()


def _as_family(base: Mapping[str, Any], family: str | None) -> dict[str, Any]:
    """The fields of a run whose model is of another family, with those that it has too; None: of the same."""
    content = _copy(base)
    if family is None:
        return content
    kinds = {each.kind: each for each in get_args(AnyModelConfig)}
    if family not in kinds:
        raise unknown_name("--family", family, kinds)
    names = {field.name for field in dataclasses.fields(kinds[family])} - {"kind"}
    model = {name: value for name, value in content.get("model", {}).items() if name in names}
    return {**content, "model": {"kind": family, **model}}


def _copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(value) if isinstance(value, Mapping) else value for name, value in content.items()}


# --- Where it runs --------------------------------------------------------------------------------------------------


def on_slice(made: NextRun, slice_: Slice, assumed: Assumptions) -> tuple[RunConfig, dict[str, Any]]:
    """The run on the mesh of a slice that is fastest by the roofline, of those that it fits on, and its plan.

    Parameters are sharded over all chips but those that a tensor axis takes. What would train in f32 does so in bf16.
    Raises UserError: no such mesh holds it.
    """
    found: list[tuple[float, RunConfig, dict[str, Any]]] = []
    for remat, tensor, microbatches in itertools.product(("none", "products", "full"), (1, 2, 4, 8), (1, 2, 4, 8)):
        if slice_.devices % tensor or made.config.training.batch_size % (microbatches * (slice_.devices // tensor)):
            continue
        mesh = dataclasses.replace(MeshConfig(), fsdp=slice_.devices // tensor, tensor=tensor)
        changed: Any = {
            "mesh": mesh,
            "execution": dataclasses.replace(made.config.execution, remat=remat, steps_per_call=1),  # type: ignore[arg-type]
            "training": dataclasses.replace(made.config.training, microbatches=microbatches),
            "precision": "bf16" if made.config.precision == "f32" else made.config.precision,
        }
        config = dataclasses.replace(made.config, **changed)
        try:
            plan = make_plan(config, slice_, tokens=made.tokens, assumed=assumed, without="arithmetic")
        except UserError:
            continue  # a mesh that does not divide the model or its batch
        if plan["memory"]["fits"]:
            found.append((plan["roofline"]["step_seconds"], config, plan))
    if not found:
        raise UserError(
            f"--topology={slice_.name}: none of its meshes holds this run, whose batch has "
            f"{made.config.training.batch_size} sequences; accepted: another slice, or a --config of larger batches"
        )
    _, config, plan = min(found, key=lambda each: each[0])
    return config, plan


def budget_of(fit: SavedFit, slice_: Slice, days: float, assumed: Assumptions, **how: Any) -> float:
    """The compute, as the law counts it, that a slice can do in some days."""
    peak = slice_.chips * slice_.chip.peaks["bf16"]
    budget = executed = peak * assumed.efficiency * assumed.uptime * days * 86_400
    for _ in range(5):  # the law leaves out attention and logits, whose share depends on the size
        made = next_run(fit, budget, **how)
        budget *= executed / made.exact_flops
    return budget


# --- Its config -----------------------------------------------------------------------------------------------------


def config_file(config: RunConfig, told: str) -> str:
    """The text of a config file for `train.py`, whose docstring is `told`."""
    content = without_defaults(config)
    for name in ("steps", "examples"):
        content["training"].pop(name, None)
    body = textwrap.indent(pprint.pformat(content, width=100, sort_dicts=False), " " * 8)
    return (
        f'"""{told}"""\n\nfrom ml_collections import ConfigDict\n\n\ndef get_config() -> ConfigDict:\n'
        f"    return ConfigDict(\n{body}\n    )\n"
    )
