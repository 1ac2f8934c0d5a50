# SPDX-License-Identifier: Apache-2.0
"""A sweep's design: which cells there are, and what each one's run is."""

import collections
import copy
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from t5x_like.accounting.flops import flops_per_target, flops_per_token
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import RunConfig, config_hash, distinctive
from t5x_like.config_files import load_file, set_field, with_overrides
from t5x_like.errors import UserError
from t5x_like.reporting.wording import COUNTS, in_units
from t5x_like.strict import FieldError, convert, to_dict
from t5x_like.training.trunk import shared_steps

ParamsColumn = Literal["params_total", "params_nonembedding", "params_active", "params_compute"]
GRID = ("sizes", "tokens", "learning_rates", "seeds")
_short = partial(in_units, units=COUNTS, digits=3)  # 1234567 as "1.23M"


@dataclass(frozen=True)
class SweepConfig:
    """A grid: sizes x token budgets x learning rates x seeds.

    Peak rates are those of a model of `learning_rate_width` w, where it is given: one of width d gets
    rate * (w / d)^learning_rate_power. A power of 1 is the rule for hidden matrices under Adam in the maximal update
    parametrisation (Yang et al. 2022); measured optima of small models often fall more slowly.

    `params_column` is which count `points.csv` calls params. `params_compute` is a sixth of the FLOPs of a target: 6
    params tokens is then what a run computes in any family (Bi et al. 2024, who leave out the logits).

    With `trunks` each run of one size, rate and seed goes on from where the next smaller budget's rate began to fall
    (`training/trunk.py`). What comes out is the same.
    """

    base: dict[str, Any]  # what all cells share, as a run config
    tokens: tuple[int, ...]  # training budgets D; every cell's schedule ends at its own
    learning_rates: tuple[float, ...]
    sizes: tuple[dict[str, Any], ...] = ()  # run-config fields of each, e.g. {"model.d_model": 64}
    learning_rate_width: int | None = None
    learning_rate_power: float = 1.0
    seeds: tuple[int, ...] = (0,)  # of initial values and the order of data
    params_column: ParamsColumn = "params_nonembedding"
    trunks: bool = False
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name, fields other than the base's, or own grids

    def __post_init__(self) -> None:
        if wrong := [arm for arm in self.arms if not re.fullmatch(r"[\w.-]+", arm)]:
            raise FieldError("arms", f"{wrong[0]!r} names no arm; accepted: letters, digits, '_', '-' and '.'")
        for name in GRID:
            values = getattr(self, name)
            if not values and not (name == "sizes" and self.arms):  # arms may have their own
                raise FieldError(name, "is empty; give at least one")
            if any(values.count(value) > 1 for value in values):
                raise FieldError(name, f"{list(values)} names one twice")
        if not all(isinstance(name, str) for size in self.sizes for name in size):
            raise FieldError("sizes", f"{list(self.sizes)}: expected run fields such as {{'model.d_model': 64}}")
        if self.learning_rate_width is not None and self.learning_rate_width < 1:
            raise FieldError("learning_rate_width", f"{self.learning_rate_width} is below 1")

    def by_arm(self) -> Iterator[tuple[str, "SweepConfig"]]:
        """Each arm with its own sweep; without arms this one, under no name."""
        if not self.arms:
            yield "", self
        for arm, fields in self.arms.items():
            grid = {name: value for name, value in fields.items() if name in GRID}
            base = _merged(self.base, {name: value for name, value in fields.items() if name not in GRID})
            yield arm, convert(SweepConfig, vars(self) | grid | {"base": base, "arms": {}}, f"arms.{arm}")


# Elementwise work, the optimizer and the input, as FLOPs a token: one-layer models of width 16 to 96 over 2,048 tokens
# took 11 microseconds a token plus one for every 50,000 FLOPs, on one core.
OVERHEAD = 5.5e5


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    run: str  # the name of its folder
    config: RunConfig
    params: dict[str, int]  # by every count that `params_column` may name
    flops: float  # of the whole run
    arm: str = ""
    parent: str | None = None  # the run that it goes on from, and the step
    first_step: int = 0

    @property
    def size(self) -> str:
        """Equal for cells that share compiled code."""
        return json.dumps(to_dict(self.config.model), sort_keys=True)

    @property
    def work(self) -> float:
        """FLOPs, and what a token of a tiny model costs besides, in FLOPs: orders cells and tells the time left."""
        assert self.config.training.tokens is not None
        return (self.flops + OVERHEAD * self.config.training.tokens) * self.own

    @property
    def own(self) -> float:
        """The part of its steps that it takes itself."""
        assert self.config.training.steps is not None
        return 1 - self.first_step / self.config.training.steps


def load_sweep(path: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Loads a sweep from a config file and overrides such as `base.training.batch_size=16` or `seeds=(0,1)`.
    Raises UserError: a missing file or a field that is misspelt, ill-typed or impossible, in one line."""
    content = load_file(path)
    if "base" not in content:
        raise UserError(f"--config={path}: is no sweep (it has no field `base`); train.py takes single runs")
    return convert(SweepConfig, with_overrides(content, overrides))


def cells(sweep: SweepConfig) -> list[Cell]:
    """Returns the cells of a design: arm by arm, largest sizes last, budgets rising within a size.
    Raises UserError: a cell's config is impossible, or two cells are the same run."""
    base_identity(sweep)  # a mistake of the base's is told as one, not as an arm's
    made = [
        _cell(one, arm, *where)
        for arm, one in sweep.by_arm()
        for where in itertools.product(one.sizes, one.tokens, one.learning_rates, one.seeds)
    ]
    names = [cell.run for cell in made]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"the grid makes the run {sorted(twice)[0]} twice: two sizes, or two budgets within one step")
    return _on_trunks(made) if sweep.trunks else made


def _on_trunks(design: list[Cell]) -> list[Cell]:
    """The cells with their parents: each goes on from the next smaller budget of the same run."""
    same = collections.defaultdict(list)
    for cell in design:
        content = distinctive(cell.config)
        for name in ("steps", "tokens"):
            _drop(content, f"training.{name}")
        same[json.dumps(content, sort_keys=True)].append(cell)
    made = {}
    for family in same.values():
        family.sort(key=lambda cell: cell.flops)
        for parent, cell in itertools.pairwise(family):
            if not (first := shared_steps(parent.config)):
                raise UserError(
                    f"trunks: runs of {parent.config.training.tokens} and {cell.config.training.tokens} tokens have no "
                    "first step in common; accepted: base.schedule.kind='wsd' or 'constant' with warmup_steps"
                )
            made[cell.run] = dataclasses.replace(cell, parent=parent.run, first_step=first)
    return [made.get(cell.run, cell) for cell in design]


def base_identity(sweep: SweepConfig) -> dict[str, Any]:
    """What all cells of a folder must share: data, objective, training and optimizer, apart from what a grid varies."""
    content = copy.deepcopy(sweep.base)
    sized = [name for _, one in sweep.by_arm() for size in one.sizes for name in size]
    for name in ("optimizer.learning_rate", "training.tokens", "seed", *sized):
        _drop(content, name)
    return {name: value for name, value in distinctive(convert(RunConfig, content, "base")).items() if name != "model"}


def _cell(sweep: SweepConfig, arm: str, size: dict[str, Any], tokens: int, rate: float, seed: int) -> Cell:
    config = _run(sweep, f"arms.{arm}" if arm else "base", size, tokens, rate, seed)
    counts = count_parameters(config.model)
    params = {f"params_{name}": getattr(counts, name) for name in ("total", "nonembedding", "active")}
    params["params_compute"] = round(flops_per_target(config) / 6)
    assert config.training.tokens is not None
    where = f"{arm}_" * bool(arm) + f"n{_short(params[sweep.params_column])}_d{_short(config.training.tokens)}"
    name = f"{where}_lr{config.optimizer.learning_rate:.3g}_s{seed}_{config_hash(config)}"
    flops = config.training.tokens * flops_per_token(config.model, config.data.sequence_length)
    return Cell(name, config, params, flops, arm)


def _run(sweep: SweepConfig, path: str, size: dict[str, Any], tokens: int, rate: float, seed: int) -> RunConfig:
    content = json.loads(json.dumps(sweep.base))
    for name, value in size.items():
        set_field(content, name, value)
    width = convert(RunConfig, content | {"training": {"tokens": tokens}}, path).model.d_model
    rate *= ((sweep.learning_rate_width or width) / width) ** sweep.learning_rate_power
    set_field(content, "optimizer.learning_rate", float(f"{rate:.6g}"))
    set_field(content, "training.tokens", tokens)
    set_field(content, "seed", seed)
    return convert(RunConfig, content, path).resolve()


def _merged(base: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Nested fields in the place of the base's; a `kind` that replaces another drops that one's fields."""
    kept = base if base.get("kind") in (None, fields.get("kind", base.get("kind"))) else {}
    new = {n: _merged(kept.get(n) or {}, value) if isinstance(value, Mapping) else value for n, value in fields.items()}
    return {**kept, **new}


def _drop(content: dict[str, Any], name: str) -> None:
    """Takes the dotted field `name` out of nested dicts, where it is there."""
    *parents, last = name.split(".")
    for parent in parents:
        content = content.get(parent, {})
    content.pop(last, None)
