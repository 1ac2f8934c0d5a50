# SPDX-License-Identifier: Apache-2.0
"""A sweep's design: which cells there are, and what each one's run is."""

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from t5x_like.accounting.flops import flops_per_token
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import RunConfig, config_hash, distinctive
from t5x_like.config_files import load_file, set_field, with_overrides
from t5x_like.errors import UserError
from t5x_like.strict import FieldError, convert, to_dict


@dataclass(frozen=True)
class SweepConfig:
    """A grid: sizes x token budgets x learning rates x seeds.

    Attributes:
      base: what all cells share, as a run config.
      sizes: one dict of run-config fields for each size, e.g. {"model.d_model": 64, "model.num_heads": 4}.
      tokens: training budgets D; every cell's schedule ends at its own.
      learning_rates: peak rates. With `learning_rate_width` w they are those of a model of width w, and a model of
        width d gets rate * (w / d)^learning_rate_power.
      learning_rate_power: 1 is the rule for hidden matrices under Adam in the maximal update parametrisation (Yang et
        al. 2022); measured optima of small models often fall more slowly.
      seeds: of initial values and the order of data.
      params_column: which count of parameters `points.csv` calls params.
    """

    base: dict[str, Any]
    sizes: tuple[dict[str, Any], ...]
    tokens: tuple[int, ...]
    learning_rates: tuple[float, ...]
    learning_rate_width: int | None = None
    learning_rate_power: float = 1.0
    seeds: tuple[int, ...] = (0,)
    params_column: Literal["params_total", "params_nonembedding", "params_active"] = "params_nonembedding"

    def __post_init__(self) -> None:
        for name in ("sizes", "tokens", "learning_rates", "seeds"):
            values = getattr(self, name)
            if not values:
                raise FieldError(name, "is empty; give at least one")
            if any(values.count(value) > 1 for value in values):
                raise FieldError(name, f"{list(values)} names one twice")
        if not all(isinstance(name, str) for size in self.sizes for name in size):
            raise FieldError("sizes", f"{list(self.sizes)}: expected run fields such as {{'model.d_model': 64}}")
        if self.learning_rate_width is not None and self.learning_rate_width < 1:
            raise FieldError("learning_rate_width", f"{self.learning_rate_width} is below 1")


# Elementwise work, the optimizer and the input, as FLOPs a token: one-layer models of width 16 to 96 over 2,048 tokens
# took 11 microseconds a token plus one for every 50,000 FLOPs, on one core.
OVERHEAD = 5.5e5


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    run: str  # the name of its folder
    config: RunConfig
    params: dict[str, int]  # by every count: {"params_total": ..., "params_nonembedding": ..., "params_active": ...}
    flops: float  # of the whole run

    @property
    def size(self) -> str:
        """Equal for cells that share compiled code."""
        return json.dumps(to_dict(self.config.model), sort_keys=True)

    @property
    def work(self) -> float:
        """FLOPs, and what a token of a tiny model costs besides, in FLOPs: orders cells and tells the time left."""
        assert self.config.training.tokens is not None
        return self.flops + OVERHEAD * self.config.training.tokens


def load_sweep(path: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Loads a sweep from a config file and overrides such as `base.training.batch_size=16` or `seeds=(0,1)`.

    Raises:
      UserError: a missing file or a field that is misspelt, ill-typed or impossible, in one line.
    """
    content = load_file(path)
    if "base" not in content:
        raise UserError(f"--config={path}: is no sweep (it has no field `base`); train.py takes single runs")
    return convert(SweepConfig, with_overrides(content, overrides))


def cells(sweep: SweepConfig) -> list[Cell]:
    """Returns the cells of a design: largest sizes last, budgets rising within a size.

    Raises:
      UserError: a cell's config is impossible, or two cells are the same run.
    """
    made = [
        _cell(sweep, size, tokens, rate, seed)
        for size, tokens, rate, seed in itertools.product(sweep.sizes, sweep.tokens, sweep.learning_rates, sweep.seeds)
    ]
    names = [cell.run for cell in made]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"the grid makes the run {sorted(twice)[0]} twice: two sizes, or two budgets within one step")
    return made


def base_identity(sweep: SweepConfig) -> dict[str, Any]:
    """What all cells of a folder must share: data, objective, training and optimizer, apart from what a grid varies."""
    content = copy.deepcopy(sweep.base)
    sized = [name for size in sweep.sizes for name in size]
    for name in ("optimizer.learning_rate", "training.tokens", "seed", *sized):
        _drop(content, name)
    shared = distinctive(convert(RunConfig, content, "base"))
    del shared["model"]
    return shared


def _cell(sweep: SweepConfig, size: dict[str, Any], tokens: int, rate: float, seed: int) -> Cell:
    config = _run(sweep, size, tokens, rate, seed)
    counts = count_parameters(config.model)
    params = {f"params_{name}": getattr(counts, name) for name in ("total", "nonembedding", "active")}
    assert config.training.tokens is not None
    size_and_budget = f"n{_short(params[sweep.params_column])}_d{_short(config.training.tokens)}"
    name = f"{size_and_budget}_lr{config.optimizer.learning_rate:.3g}_s{seed}_{config_hash(config)}"
    flops = config.training.tokens * flops_per_token(config.model, config.data.sequence_length)
    return Cell(name, config, params, flops)


def _run(sweep: SweepConfig, size: dict[str, Any], tokens: int, rate: float, seed: int) -> RunConfig:
    content = json.loads(json.dumps(sweep.base))
    for name, value in size.items():
        set_field(content, name, value)
    width = convert(RunConfig, content | {"training": {"tokens": tokens}}, "base").model.d_model
    if sweep.learning_rate_width is not None:
        rate = rate * (sweep.learning_rate_width / width) ** sweep.learning_rate_power
    set_field(content, "optimizer.learning_rate", float(f"{rate:.6g}"))
    set_field(content, "training.tokens", tokens)
    set_field(content, "seed", seed)
    return convert(RunConfig, content, "base").resolve()


def _drop(content: dict[str, Any], name: str) -> None:
    """Takes the dotted field `name` out of nested dicts, where it is there."""
    *parents, last = name.split(".")
    for parent in parents:
        content = content.get(parent, {})
    content.pop(last, None)


def _short(number: float) -> str:
    """1234567 as "1.23M"."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:g}"
