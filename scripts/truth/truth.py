# SPDX-License-Identifier: Apache-2.0
"""Laws tried on surfaces whose truth is known: do they find E and the exponents, and how far off are they beyond?

A `Case` is a surface and a design like a laptop's sweep: sizes over two decades, budgets over one and a half, noise of
.3 %. Every law is fitted to every data set, and what it says is held against the surface: its E, the exponents of its
limits, the loss and the compute-optimal size at 10, 30 and 100 times the largest compute. The held-out error of
`leaderboard` is computed as well, without using the truth: does choosing by it choose the law that extrapolates best?

`judged_sweeps` does what can be done of this for real trainings on a process of known entropy.

Legend: R data sets over one design, the first of them without noise; n points, P parameters, S starts, C multiples.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from t5x_like.errors import UserError, unknown_name
from t5x_like.scaling.analysis.leaderboard import ORIGINS, entrants, folds
from t5x_like.scaling.fitting.fit import HUBER_DELTA
from t5x_like.scaling.fitting.points import Points, read_points
from t5x_like.scaling.fitting.solver import anneal, find_minimum
from t5x_like.scaling.fitting.surface import Surface, surface_of
from t5x_like.scaling.laws.catalogue import get_law
from t5x_like.scaling.laws.frontier import frontier
from t5x_like.scaling.laws.laws import Law, Values
from t5x_like.scaling.uncertainty.bootstrap import refit
from truth.spectral import QuantaModel, RandomFeatureModel, SpectralSurface, sweep

Array = np.ndarray
Progress = Callable[[int, int], None]

MULTIPLES = (10.0, 30.0, 100.0)  # of the design's largest compute
NOISE = 0.003
SEEDS = 10
SIZES, BUDGETS = 6, 5
UNLIMITED = 1e18  # params or tokens

# The exponents with which a law's loss falls towards E when the other variable is without limit: comparable across laws
_LIMITS: dict[str, Callable[[Values], tuple[Any, Any]]] = {
    "chinchilla": lambda p: (p["alpha"], p["beta"]),
    "chinchilla_tied": lambda p: (p["alpha"], p["alpha"]),
    "power_of_sum": lambda p: (p["alpha"] * p["k"], p["beta"] * p["k"]),
    "kaplan": lambda p: (p["alpha_N"], p["alpha_D"]),
    "kaplan_e": lambda p: (p["alpha_N"], p["alpha_D"]),
}


def limits(law: Law, parameters: Values) -> tuple[Any, Any]:
    """Returns (alpha, beta) of the law's limits, NaN for a law whose loss has no such limits (a product of powers)."""
    if law.name not in _LIMITS:
        missing = np.full(np.shape(parameters[law.parameters[0]]), np.nan)
        return missing, missing
    return _LIMITS[law.name](parameters)


@dataclass(frozen=True)
class LawSurface:
    """One of our own laws as a truth; a `spectral.SpectralSurface`."""

    law: Law
    parameters: Mapping[str, float]

    @property
    def entropy(self) -> float:
        return self.parameters.get("E", 0.0)

    @property
    def exponents(self) -> dict[str, float]:
        alpha, beta = limits(self.law, self.parameters)
        return {"alpha": float(alpha), "beta": float(beta)}

    def loss(self, params: Any, tokens: Any) -> Array:
        return self.law.predict(self.parameters, {"params": np.asarray(params), "tokens": np.asarray(tokens)})


@dataclass(frozen=True)
class Case:
    """A surface with the design it is looked at through.

    Attributes:
      name: of the surface, short.
      surface: the truth.
      params, tokens: the (smallest, largest) size and budget; a spectral model counts tasks or features, and samples.
      law: the name of the law whose surface it is, or None.
    """

    name: str
    surface: SpectralSurface
    params: tuple[float, float]
    tokens: tuple[float, float]
    law: str | None = None

    @property
    def grid(self) -> tuple[Array, Array]:
        """Sizes and budgets, evenly in their logarithms."""
        return np.round(np.geomspace(*self.params, SIZES)), np.round(np.geomspace(*self.tokens, BUDGETS))

    @property
    def family(self) -> str:
        """The name without what tells apart cases of one model."""
        return self.name.split(",")[0].replace(" ", "_")

    @property
    def compute(self) -> float:
        """The largest compute of the design, 6 params tokens."""
        return 6 * float(self.grid[0][-1] * self.grid[1][-1])


def _by_law(name: str, **parameters: float) -> Case:
    return Case(name, LawSurface(get_law(name), parameters), (1e4, 1e6), (1e6, 3e7), law=name)


CASES = (
    _by_law("chinchilla", E=1.7, A=40.0, B=500.0, alpha=0.34, beta=0.4),
    _by_law("power_of_sum", E=1.7, A=60.0, B=3000.0, alpha=0.5, beta=0.6, k=0.7),
    _by_law("kaplan_e", E=1.7, Nc=1e4, Dc=1e6, alpha_N=0.3, alpha_D=0.25),
    Case("quanta, a = .3", QuantaModel(1.7, 0.3, scale=5.0), (1e3, 1e5), (1e4, 3e5)),
    Case("quanta, a = .5", QuantaModel(1.7, 0.5, scale=5.0), (1e2, 1e4), (3e3, 1e5)),
    Case("random features, a = .3", RandomFeatureModel(1.7, 0.3), (1e2, 1e4), (3e3, 1e5)),
    Case("random features, a = .5", RandomFeatureModel(1.7, 0.5, scale=2.0), (1e2, 1e4), (3e3, 1e5)),
)


def cases(families: Sequence[str] = ()) -> tuple[Case, ...]:
    """Returns the cases of the named families, all without a name.

    Raises:
      UserError: no case is of that family.
    """
    known = [case.family for case in CASES]
    for family in families:
        if family not in known:
            raise unknown_name("surface", family, set(known))
    return tuple(case for case in CASES if not families or case.family in families)


@dataclass(frozen=True)
class Truth:
    """What a case's surface says at compute = `MULTIPLES` of the design's largest, each [C].

    Attributes:
      flops: the compute.
      params, loss: the compute-optimal size, found numerically, and the loss there.
      a: d ln params / d ln flops from the design's largest compute to the last multiple.
      spread: the highest minus the lowest loss of the design.
    """

    flops: Array
    params: Array
    loss: Array
    a: float
    spread: float


@dataclass(frozen=True)
class Outcome:
    """What one law made of one case. First axis: the data set without noise, then R - 1 noisy ones.

    Attributes:
      law: the law.
      vectors: its parameters [R, P].
      E, alpha, beta, a: fitted minus true, [R]. A law without E says 0. NaN where the law has no such exponent.
      loss: predicted / true - 1 at the true compute-optimal params and tokens, [R, C].
      params: its compute-optimal size over the true one, [R, C]; NaN where it has no optimum.
      excess: what training at its size instead of the best would cost: true loss there / true optimal loss - 1, [R, C].
      leave_one_out, rolling, score: as `leaderboard` computes them, [R].
    """

    law: Law
    vectors: Array
    E: Array
    alpha: Array
    beta: Array
    a: Array
    loss: Array
    params: Array
    excess: Array
    leave_one_out: Array
    rolling: Array
    score: Array


@dataclass(frozen=True)
class Study:
    """A case, its truth, and what every law made of it."""

    case: Case
    truth: Truth
    outcomes: tuple[Outcome, ...]
    noise: float

    @property
    def data_sets(self) -> int:
        """How many noisy ones there are."""
        return len(self.outcomes[0].E) - 1


def study(
    case: Case,
    *,
    seeds: int = SEEDS,
    noise: float = NOISE,
    laws: Sequence[str | Law] | None = None,
    delta: float = HUBER_DELTA,
    seed: int = 0,
    progress: Progress | None = None,
) -> Study:
    """Fits laws to noisy data sets of a case and measures their errors.

    Args:
      case: of `CASES`, or your own.
      seeds: noisy data sets, at least 1.
      noise: standard deviation of the log loss.
      laws: names or laws; `leaderboard.entrants` by default.
      delta: the Huber threshold of every fit.
      seed: of the noise, which differs from case to case.
      progress: called with (laws done, all laws).
    """
    exact, losses = data_sets(case, seeds, noise, seed)
    truth = true_optimum(case)
    chosen = [get_law(law) for law in laws] if laws is not None else entrants(exact)
    outcomes = []
    for done, law in enumerate(chosen):
        outcomes.append(_outcome(case, truth, law, exact, np.log(losses), delta))
        if progress:
            progress(done + 1, len(chosen))
    return Study(case, truth, tuple(outcomes), noise)


def data_sets(case: Case, seeds: int, noise: float = NOISE, seed: int = 0) -> tuple[Points, Array]:
    """Returns the design with its exact losses, and all losses [1 + seeds, n], the exact ones first."""
    if seeds < 1:
        raise UserError(f"seeds: {seeds}; it must be 1 or more")
    exact = read_points(sweep(case.surface, *case.grid))
    own = seed + zlib.crc32(case.name.encode())  # every case has noise of its own
    noisy = sweep(case.surface, *case.grid, noise=noise, seeds=seeds, seed=own)
    return exact, np.concatenate([exact.loss[None], noisy["loss"].reshape(-1, seeds).T])


# --- The truth ------------------------------------------------------------------------------------------------------


def true_optimum(case: Case) -> Truth:
    """Minimises the surface at fixed compute over whole sizes; between whole numbers the quanta model has steps."""
    flops = case.compute * np.array((1.0, *MULTIPLES))
    params = np.array([_best_size(case.surface, budget) for budget in flops])
    losses = case.surface.loss(*np.meshgrid(*case.grid))
    return Truth(
        flops=flops[1:],
        params=params[1:],
        loss=case.surface.loss(params, flops / 6 / params)[1:],
        a=float(np.log(params[-1] / params[0]) / np.log(flops[-1] / flops[0])),
        spread=float(losses.max() - losses.min()),
    )


def _best_size(surface: SpectralSurface, flops: float) -> float:
    def loss(log_params: float) -> float:
        params = np.round(np.exp(log_params))
        return float(surface.loss(params, flops / 6 / params))

    coarse = np.linspace(0, np.log(flops / 6), 60)[1:-1]
    at = int(np.argmin([loss(x) for x in coarse]))
    ends = coarse[max(at - 1, 0)], coarse[min(at + 1, len(coarse) - 1)]
    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-7})
    return float(np.round(np.exp(found.x)))


def bend(case: Case) -> float:
    """How far the slopes of a surface's limits stray from its exponents over the design, relative: 0 is a power law."""
    sizes, budgets = case.grid
    surface, exponents = case.surface, case.surface.exponents
    found = []
    for x in (sizes[0], sizes[-1]):
        at = np.round(np.array([x / 1.25, x * 1.25]))
        found.append(_slope(at, surface.loss(at, UNLIMITED) - surface.entropy) / exponents["alpha"])
    for x in (budgets[0], budgets[-1]):
        at = np.round(np.array([x / 1.25, x * 1.25]))
        found.append(_slope(at, surface.loss(UNLIMITED, at) - surface.entropy) / exponents["beta"])
    return float(np.abs(np.array(found) - 1).max())


def _slope(x: Array, y: Array) -> float:
    return float(-np.diff(np.log(y))[0] / np.diff(np.log(x))[0])


# --- Fits, all data sets of a design at once --------------------------------------------------------------------------


def _outcome(case: Case, truth: Truth, law: Law, points: Points, targets: Array, delta: float) -> Outcome:
    surface = surface_of(law, points)
    theta = fit_together(surface, targets, delta)
    vectors = surface.natural(theta)
    named = law.named(vectors)
    alpha, beta = limits(law, named)
    best = frontier(law, vectors, np.concatenate([[case.compute], truth.flops]))
    with np.errstate(all="ignore"):
        inside = (best.params >= 1) & (best.tokens >= 1) & np.isfinite(best.params * best.tokens)
        params = np.where(inside, best.params, np.nan)
        a = np.log(params[:, -1] / params[:, 0]) / np.log(best.flops[-1] / best.flops[0])
    left_out = leave_out(surface, targets, theta, delta)
    rolling = roll_origin(law, points, surface, targets, theta, delta)
    predicted = law.predict(
        {name: value[:, None] for name, value in named.items()},
        {"params": truth.params, "tokens": truth.flops / 6 / truth.params},
    )
    return Outcome(
        law=law,
        vectors=vectors,
        E=named.get("E", np.zeros(len(vectors))) - case.surface.entropy,
        alpha=alpha - case.surface.exponents["alpha"],
        beta=beta - case.surface.exponents["beta"],
        a=a - truth.a,
        loss=predicted / truth.loss - 1,
        params=params[:, 1:] / truth.params,
        excess=_excess(case.surface, truth, params[:, 1:]),
        leave_one_out=left_out,
        rolling=rolling,
        score=np.sqrt(left_out * rolling),
    )


def _excess(surface: SpectralSurface, truth: Truth, params: Array) -> Array:
    known = np.isfinite(params)
    size = np.where(known, np.maximum(np.round(np.where(known, params, 1.0)), 1.0), truth.params)
    reached = surface.loss(size, np.maximum(truth.flops / 6 / size, 1.0))
    return np.where(known, reached / truth.loss - 1, np.nan)


def fit_together(surface: Surface, targets: Array, delta: float) -> Array:
    """Fits data sets that differ by noise: one global search on the first, descents from all its starts on each.

    Args:
      surface: the law on the design.
      targets: responses [R, n].
      delta: the Huber threshold.

    Returns:
      The minima theta [R, P].
    """
    theta, begun, _ = find_minimum(surface, targets[0], delta)
    starts = np.concatenate([theta[None], begun])
    reached, values = anneal(surface, np.repeat(targets, len(starts), 0), np.tile(starts, (len(targets), 1)), delta)
    return _best(reached, values, len(targets))


def _best(reached: Array, values: Array, data_sets: int) -> Array:
    """The lowest of each data set's descents: [R, P] of [R S, P]."""
    values = values.reshape(data_sets, -1)
    return reached.reshape(*values.shape, -1)[np.arange(data_sets), values.argmin(1)]


def leave_out(surface: Surface, targets: Array, theta: Array, delta: float) -> Array:
    """`leaderboard.leave_out` of R data sets at once: root mean squares [R]."""
    groups = folds(targets.shape[1])
    weights = 1.0 - (groups == np.arange(groups.max() + 1)[:, None])
    many = len(weights)
    refitted = refit(
        surface,
        np.repeat(targets, many, 0),
        np.repeat(theta, many, 0),
        delta,
        np.tile(weights, (len(targets), 1)),
    )
    predicted = surface.predict(refitted).reshape(len(targets), many, -1)
    return _rms(predicted[:, groups, np.arange(len(groups))] - targets)


def roll_origin(law: Law, points: Points, surface: Surface, targets: Array, theta: Array, delta: float) -> Array:
    """The leaderboard's errors on runs larger than those fitted, of R data sets at once: root mean squares [R]."""
    found = []
    for share in ORIGINS:
        edge = np.sort(points.compute)[max(0, round(share * len(points)) - 1)]
        inside = points.compute <= edge * (1 + 1e-9)
        surface_of(law, points.take(inside))  # raises where the smaller runs cannot determine the law
        least, begun, _ = find_minimum(surface, targets[0], delta, inside.astype(float))
        shared = np.tile(np.concatenate([least[None], begun]), (len(theta), 1, 1))
        own = np.concatenate([theta[:, None], shared], 1)
        each = own.shape[1]
        reached, values = anneal(
            surface, np.repeat(targets, each, 0), own.reshape(-1, own.shape[2]), delta, inside.astype(float)
        )
        errors = surface.predict(_best(reached, values, len(targets))) - targets
        found.append(_rms(errors[:, ~inside]))
    return _rms(np.stack(found, 1))


def _rms(errors: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(errors**2, -1)))


# --- Does choosing by held-out error work? ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Laws by held-out error against laws by mis-extrapolation, over all noisy data sets of some studies.

    Attributes:
      data_sets: how many.
      hits: in how many the law of least held-out error was that of least error of the loss at the last multiple.
      picked, best, typical: that error, absolute, of the law picked, of the law that knowing the truth would pick, and
        of the median law, each [data_sets].
      always: the same of each law by name.
      names: how often each law was picked.
    """

    data_sets: int
    hits: int
    picked: Array
    best: Array
    typical: Array
    always: dict[str, Array]
    names: dict[str, int]


def choose(studies: Sequence[Study]) -> Choice:
    """Returns how well the leaderboard's first place predicts the best extrapolation; the laws must be the same."""
    laws = [outcome.law.name for outcome in studies[0].outcomes]
    scores = np.concatenate([np.stack([o.score[1:] for o in study.outcomes]) for study in studies], 1)
    errors = np.abs(np.concatenate([np.stack([o.loss[1:, -1] for o in study.outcomes]) for study in studies], 1))
    at = scores.argmin(0)
    return Choice(
        data_sets=len(at),
        hits=int((at == errors.argmin(0)).sum()),
        picked=errors[at, np.arange(len(at))],
        best=errors.min(0),
        typical=np.median(errors, 0),
        always=dict(zip(laws, errors, strict=True)),
        names={law: int((at == i).sum()) for i, law in enumerate(laws)},
    )
