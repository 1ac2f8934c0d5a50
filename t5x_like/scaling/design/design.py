# SPDX-License-Identifier: Apache-2.0
"""Designs of sweeps before a single run: what a set of cells would tell, and which cells tell most for a budget.

What a design tells about a quantity is its 95 % interval by the delta method with Student's t (`intervals.Delta`), with
the losses that the prior predicts and the noise that it expects. The choice minimises that interval, averaged over
several priors, under a budget of sum 6 params tokens (c-optimal design; `search` has the search).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy import special

from t5x_like.errors import UserError
from t5x_like.reporting.wording import figure
from t5x_like.scaling.design.cells import At, Cells, plain_grid
from t5x_like.scaling.design.prior import Prior, Question, names, question
from t5x_like.scaling.design.search import SPARE, Candidates, Limits, enough, search
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.surface import Surface, surface_of
from t5x_like.scaling.laws.frontier import BEYOND, Quantities
from t5x_like.scaling.pairs import pair
from t5x_like.scaling.uncertainty import coverage
from t5x_like.scaling.uncertainty.intervals import LEVEL, Delta

Array = np.ndarray
Ticker = Callable[[str, int, int], None] | None  # called with (what, done, all)

CELLS = 20
REPEATS = 2  # runs of one cell: they average noise, and say nothing about the law
GRIDS = (3, 4, 5)
_DULL = 1e-9  # a quantity whose logarithm moves less than this with the parameters does not depend on them


@dataclass(frozen=True)
class Expectation:
    """What a design is expected to say; for a factor, `error` and `half_width` are of the logarithm."""

    value: float  # at the prior
    error: float  # standard error
    half_width: float  # of the 95 % interval
    factor: bool

    @property
    def low(self) -> float:
        return float(self.value * np.exp(-self.half_width)) if self.factor else max(0.0, self.value - self.half_width)

    @property
    def high(self) -> float:
        with np.errstate(over="ignore"):
            return float(self.value * np.exp(self.half_width) if self.factor else self.value + self.half_width)

    @property
    def within(self) -> str:
        """`± 0.021`, or `a factor of 1.31`."""
        if not self.factor:
            return f"± {figure(self.half_width, 2)}"
        return f"a factor of {figure(float(np.exp(min(self.half_width, 50.0))))}"

    def as_wide(self, half_width: float) -> "Expectation":
        return dataclasses.replace(self, half_width=half_width)

    def to_json(self) -> dict[str, Any]:
        ends = pair(self.low, self.high)
        return {"value": self.value, "interval": ends, "half_width": self.half_width, "factor": self.factor}


@dataclass(frozen=True)
class _Planned(Delta):
    """The delta method with a spread that is expected instead of measured."""

    noise: float = 0.0

    @cached_property
    def spread(self) -> float:
        return self.noise


def _linear(prior: Prior, vector: Array, cells: Cells) -> _Planned:
    """The delta method for a design with the losses of one prior, without noise."""
    variables = dict(zip(("params", "tokens"), cells.runs, strict=True))
    surface = Surface.over(prior.law, variables, prior.law.predict(prior.law.named(vector), variables))
    theta = surface.scaled(vector[None])
    return _Planned(surface, surface.predict(theta)[0], theta[0], prior.huber_delta, prior.noise)


def expect(prior: Prior, asked: Question, cells: Cells, which: int = 0) -> Expectation:
    """Returns what a design is expected to say about a quantity, under prior number `which`."""
    linear = _linear(prior, prior.vectors[which], cells)
    (value,), slopes = linear.gradient(asked.of)
    error = np.sqrt(slopes[:, 0] @ linear.covariance @ slopes[:, 0]) / (value if asked.factor else 1.0)
    return Expectation(float(value), float(error), float(error * linear.quantile), asked.factor)


def candidates(prior: Prior, asked: Question, params: Array, tokens: Array) -> Candidates:
    """Returns every pair of the sizes and token counts, with what a run of it tells about the quantity.
    Raises UserError: the quantity does not exist under this law, or does not depend on the losses."""
    cells = Cells.product(params, tokens)
    slopes, wanted = [], []
    for vector in prior.vectors:
        linear = _linear(prior, vector, cells)
        (value,), gradient = linear.gradient(asked.of)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            law, hint = prior.law.name, "; give --at=params:tokens" if asked.name == "prediction" else ""
            raise UserError(f"--narrow={asked.name}: law {law!r} has no compute-optimal sizes with this prior{hint}")
        if np.abs(gradient).max() < _DULL * abs(value):
            told = f"it is {figure(float(value))} whatever the losses, under law {prior.law.name!r}"
            raise UserError(f"--narrow={asked.name}: {told}")
        # all over one set of candidates, so that every prior has coordinates of its own
        squared, slope = linear.psi
        slopes.append(linear.surface.jacobian(linear.theta[None])[1][0] * slope / np.sqrt(squared))
        wanted.append(gradient[:, 0])
    return Candidates(cells.params, cells.tokens, np.array(slopes), np.array(wanted))


def choose(
    prior: Prior, asked: Question, params: Array, tokens: Array, limits: Limits, seed: int = 0, progress: Ticker = None
) -> Cells:
    """Returns the design that narrows the quantity most, of these sizes and token counts, or says why there is none.

    The seed is of the search's random starts. Raises UserError: no design that could check the law keeps within the
    limits.
    """
    found = candidates(prior, asked, params, tokens)
    least = enough(len(prior.law.parameters))
    if limits.cells < least:
        raise UserError(
            f"--cells={limits.cells}: law {prior.law.name!r} has {least - SPARE} parameters, and checking it takes "
            f"{SPARE} cells more: --cells={least} or more"
        )
    cheapest = found.cheapest()
    needed, fewest = float(cheapest @ found.cost), int(cheapest.sum())
    values = "{} sizes and {} token counts".format(*found.fewest)
    if fewest > limits.cells:
        raise UserError(f"--cells={limits.cells}: {values} need --cells={fewest} here")
    if needed > limits.budget:
        unit = 10.0 ** (np.floor(np.log10(needed)) - 1)
        enough_for_it = np.ceil(needed / unit * (1 - 1e-12)) * unit  # in two digits
        raise UserError(
            f"--budget={_flops(limits.budget)} cannot pay for {fewest} cells of these ranges with {values}, the least "
            f"that law {prior.law.name!r} can be checked with: give --budget={_flops(enough_for_it)} or more, or "
            "smaller --params and --tokens"
        )
    grids = (plain_grid(k, params, tokens, limits.budget, limits.cells) for k in GRIDS)
    starts = tuple(_nearest(found, grid) for grid in grids if grid is not None)
    counts = search(found, limits, starts, seed, partial(progress, "search") if progress else None)
    used = counts > 0
    return Cells(found.params[used], found.tokens[used], counts[used])


def _flops(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e")


def _nearest(found: Candidates, grid: Cells) -> Array:
    """The runs [C] of a grid, each at the nearest candidate, as a start for the search."""
    pairs = ((found.params, grid.params), (found.tokens, grid.tokens))
    miss = sum(np.abs(np.log(offered[:, None] / wanted)) for offered, wanted in pairs)
    return np.bincount(np.argmin(miss, 0), grid.counts, len(found.params)).astype(int)


@dataclass(frozen=True)
class Plan:
    """A design, and what it is expected to say."""

    prior: Prior
    asked: Question
    cells: Cells
    expected: Expectation  # of the quantity
    range: tuple[float, float]  # the smallest and the largest half width over the priors
    others: Mapping[str, Expectation]  # of every other quantity, by name
    grids: Sequence[tuple[int, Cells, Expectation]]  # (k, cells, expectation) of plain k x k grids of the same cost
    budget: float  # FLOPs that the cells should not cost more than

    @property
    def extrapolation(self) -> float | None:
        """Compute asked about, over that of the largest run."""
        return self.asked.at.flops / self.cells.largest if self.asked.at else None

    def to_json(self) -> dict[str, Any]:
        cells, at = self.cells, self.asked.at
        columns = zip(cells.params.tolist(), cells.tokens.tolist(), cells.counts.tolist(), strict=True)
        return {
            "narrow": self.asked.name,
            "at": None if at is None else {name: value for name, value in vars(at).items() if value is not None},
            "expected": self.expected.to_json(),
            "half_width_over_priors": list(self.range),
            "runs": len(cells),
            "flops": cells.cost,
            "extrapolation": self.extrapolation,
            "cells": [{"params": n, "tokens": d, "runs": runs} for n, d, runs in columns],
            "others": {name: one.to_json() for name, one in self.others.items()},
            "grids": [
                {"grid": f"{k} x {k}", "runs": len(grid), "flops": grid.cost, **found.to_json()}
                for k, grid, found in self.grids
            ],
            "prior": self.prior.to_json(),
            "warnings": self.warnings,
        }

    @property
    def warnings(self) -> list[str]:
        """Plain sentences."""
        return list(self._doubts())

    def _doubts(self) -> Iterator[str]:
        name, expected, cells, times = self.asked.name, self.expected, self.cells, self.extrapolation or 0.0
        scale = expected.value
        if name == "E":  # a prior may well have a small one
            middle = {"params": np.median(cells.params), "tokens": np.median(cells.tokens)}
            scale = float(self.prior.law.predict(self.prior.parameters, middle))
        if expected.half_width > (np.log(10) if expected.factor else 0.5 * scale):
            yield f"{name} would hardly be determined: a larger budget, wider ranges or less noise would help."
        elif self.range[1] > 2 * expected.half_width:
            worst = expected.as_wide(self.range[1]).within
            yield f"With exponents a step from the prior's the interval could be {worst}."
        share = cells.cost / self.budget
        if share > 1 + 1e-9:
            yield f"These cells cost {share:.3g} times the budget."
        if np.isfinite(self.budget) and share < 0.5:
            saved = f"{100 * share:.2g} % of the budget"
            yield f"These cells cost {saved}: more --cells, or wider ranges, could narrow it further."
        different, least = len(cells.params), enough(len(self.prior.law.parameters))
        if different < least:
            yield f"Only {different} different cells: {least} would leave {SPARE} to check the law with."
        if times > BEYOND:
            beyond = f"{times:.3g} times beyond the largest run"
            yield f"{name} is asked {beyond}: past {BEYOND:g} times the interval holds only if the law does."


def judge(
    prior: Prior, asked: Question, cells: Cells, ranges: tuple[Array, Array] | None = None, budget: float = np.inf
) -> Plan:
    """Returns what a design is expected to say, about the quantity and about others.

    `ranges` are sizes and token counts over which plain grids are laid, to compare; those of the cells without them.
    `budget` is in FLOPs. Raises UserError: the cells cannot determine the law.
    """
    law = prior.law
    params, tokens = cells.runs
    loss = law.predict(prior.parameters, {"params": params, "tokens": tokens})
    surface_of(law, Points(params, tokens, loss, source="the design"))  # refuses cells that cannot determine the law
    expected = [expect(prior, asked, cells, which) for which in range(len(prior.vectors))]
    widths = [one.half_width for one in expected]
    rest = [name for name in (*law.parameters, "a") if name != asked.name and name in names(law)]
    others = {name: expect(prior, question(law, name, asked.at or At(cells.cost)), cells) for name in rest}
    others = {name: one for name, one in others.items() if np.isfinite(one.half_width) and one.error > _DULL}
    offered = ranges or (cells.params, cells.tokens)
    plain = ((k, plain_grid(k, *offered, cells.cost, max(len(cells), k * k))) for k in GRIDS)
    grids = [(k, grid, expect(prior, asked, grid)) for k, grid in plain if grid and len(grid) > len(law.parameters)]
    return Plan(prior, asked, cells, expected[0], (min(widths), max(widths)), others, grids, budget)


def simulate(plan: Plan, simulations: int, seed: int = 0, progress: Ticker = None) -> dict[str, Any]:
    """Draws noisy losses on the design and fits them: `coverage.simulate` for the plan's quantity.
    That is the logarithm of a factor. `expected_middle` says how wide the middle 95 % of the estimates should be."""
    prior, name = plan.prior, plan.asked.name
    linear = _linear(prior, prior.vectors[0], plan.cells)
    of = (lambda vectors: np.log(plan.asked.of(vectors))) if plan.expected.factor else plan.asked.of
    found = coverage.simulate(
        linear.surface,
        linear.theta,
        prior.noise,
        prior.huber_delta,
        methods=("wild", "delta"),
        simulations=simulations,
        seed=seed,
        asked=Quantities((name,), of),
        progress=partial(progress, "simulation") if progress else None,
    )
    return {**found, "expected_middle": 2 * float(special.ndtri(0.5 + LEVEL / 2)) * plan.expected.error}
