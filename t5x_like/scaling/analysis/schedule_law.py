# SPDX-License-Identifier: Apache-2.0
"""The loss of a run at every step, from its learning rates: the multi-power law (Luo et al. 2025).

With rates eta_1, eta_2, ... and S(t) their sum up to step t,

    L(t) = L0 + A S(t)^-alpha - B sum_{k <= t} (eta_{k-1} - eta_k) G(eta_k^-gamma (S(t) - S(k-1)))
    G(x) = 1 - (C x + 1)^-beta

where k runs over the steps after the peak: a power of what has been learned, and what each fall of the rate has brought
since. Fitted to a few runs of one size under some schedules it predicts the loss under others.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.runs import lines_of
from t5x_like.scaling.fitting.solver import rms

Array = np.ndarray

PARAMETERS = ("L0", "A", "B", "C", "alpha", "beta", "gamma")
_FALLS = 400  # into how many parts a schedule's fall is taken
_DELTA = 1e-3  # Huber's threshold, of residuals of log losses
_STARTS = 8
_BOUNDS = {"L0": (0.0, 20.0), "A": (-12.0, 12.0), "B": (-12.0, 16.0), "C": (-8.0, 8.0)}  # logarithms, but of L0
_BOUNDS |= {"alpha": (0.02, 3.0), "beta": (0.02, 3.0), "gamma": (0.0, 2.0)}


@dataclass(frozen=True)
class Schedule:
    """The rates of a run, and its losses where they were measured."""

    name: str
    rates: Array  # of every step, [T]
    steps: Array  # at which losses are known, [n], from 1
    losses: Array  # nats per token, [n]

    def sums(self) -> tuple[Array, Array, Array, Array]:
        """S at the measured steps [n]; falls of the rate [K], the rates after them and S before them."""
        total = np.concatenate([[0.0], np.cumsum(self.rates)])
        peak = int(np.argmax(self.rates))
        ends = np.unique(np.linspace(peak, len(self.rates) - 1, _FALLS + 1).round().astype(int))
        falls = self.rates[ends[:-1]] - self.rates[ends[1:]]
        return total[self.steps], falls, self.rates[ends[1:]], total[ends[1:]]


@dataclass(frozen=True)
class MultiPower:
    """The fitted law."""

    L0: float
    A: float
    B: float
    C: float
    alpha: float
    beta: float
    gamma: float
    residual_rms: float = 0.0  # of log losses

    def predict(self, schedule: Schedule) -> Array:
        """The loss at the schedule's steps, [n]."""
        done, falls, after, before = schedule.sums()
        since = np.maximum(done[:, None] - before[None, :], 0.0)  # a fall that is yet to come has brought nothing
        with np.errstate(all="ignore"):  # a rate of 0 at the end is felt at once
            x = np.where(since > 0, np.maximum(after, 1e-300) ** -self.gamma * since, 0.0)
        gained = (falls * (1 - (self.C * x + 1) ** -self.beta)).sum(1)
        return np.asarray(self.L0 + self.A * done**-self.alpha - self.B * gained)


def read_schedule(folder: str | Path) -> Schedule:
    """Reads a run folder's metrics.jsonl: rates between log points are interpolated, losses are the held-out ones.
    Raises UserError: no such file, or fewer than four evaluations after the warm-up."""
    folder = Path(folder)
    lines = lines_of(folder.parent, folder.name)
    logged = [line for line in lines if line.get("split") == "train" and line.get("learning_rate") is not None]
    scored = [line for line in lines if line.get("split") == "eval" and "dataset" not in line]
    if len(logged) < 2:
        raise UserError(f"{folder}: has no metrics.jsonl with learning rates; accepted: the folder of a run")
    at, rates = (np.array([line[name] for line in logged], float) for name in ("step", "learning_rate"))
    every = np.interp(np.arange(1, at[-1] + 1), np.concatenate([[0.0], at]), np.concatenate([[0.0], rates]))
    warm = int(np.argmax(every)) + 1
    usable = [line for line in scored if line["step"] > warm and np.isfinite(line["loss"])]
    if len(usable) < 4:
        raise UserError(
            f"{folder}: {len(usable)} evaluations after the warm-up, and a curve needs 4; accepted: a run with "
            "--config.training.evaluate_every, such as 5%"
        )
    steps = np.array([line["step"] for line in usable], int)
    return Schedule(folder.name, every, steps, np.array([line["loss"] for line in usable], float))


def fit_multi_power(curves: Sequence[Schedule], seed: int = 0) -> MultiPower:
    """Fits the law to the curves of one model under several schedules: Huber losses of log residuals, many starts."""
    measured = np.log(np.concatenate([curve.losses for curve in curves]))
    low, high = np.array(list(_BOUNDS.values())).T
    lowest = float(np.exp(measured.min()))
    high = np.where([name == "L0" for name in PARAMETERS], lowest, high)

    def law(x: Array) -> MultiPower:
        values = dict(zip(PARAMETERS, map(float, x), strict=True))
        return MultiPower(**{n: float(np.exp(v)) if n in ("A", "B", "C") else v for n, v in values.items()})

    def misses(x: Array) -> Array:
        made = law(x)
        predicted = np.concatenate([made.predict(curve) for curve in curves])
        return np.log(np.maximum(predicted, 1e-3)) - measured

    begin = {"L0": (0.5, 0.95), "A": (-3, 1), "B": (0, 6), "C": (-2, 3), "alpha": (0.2, 1), "beta": (0.2, 1)}
    begin |= {"gamma": (0.2, 0.8)}  # uniformly between; L0 as a share of the lowest loss
    unit = np.where([name == "L0" for name in PARAMETERS], lowest, 1.0)
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    for _ in range(_STARTS):
        x = np.clip(unit * [rng.uniform(*begin[name]) for name in PARAMETERS], low + 1e-6, high - 1e-6)
        found.append(least_squares(misses, x, bounds=(low, high), loss="huber", f_scale=_DELTA, x_scale="jac"))
    best = min(found, key=lambda one: one.cost)
    return dataclasses.replace(law(best.x), residual_rms=rms(misses(best.x)))
