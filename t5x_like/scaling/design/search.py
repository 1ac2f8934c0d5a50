# SPDX-License-Identifier: Apache-2.0
"""Which cells to run: a c-optimal design under a budget, by greedy starts and exchanges (Fedorov 1972).

Legend: R priors, P parameters, C candidate cells. A design is a count of runs for each candidate, [C].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from t5x_like.scaling.uncertainty.intervals import LEVEL

Array = np.ndarray
Progress = Callable[[int, int], None] | None

SPARE = 3  # cells beyond the law's parameters: with fewer, nothing would show that the law is wrong
VALUES = 4  # different params, and tokens, where there are so many: three values follow any E + A / N^alpha
_GREED = (1.0, 0.5, 0.25, 0.0)  # starts add the cell of largest gain / cost^greed
_RANDOM_STARTS = 2
CAUTION = 0.1  # how much the other parameters count beside the quantity


def enough(parameters: int) -> int:
    """The fewest different cells of a design that can check its law."""
    return parameters + SPARE


@dataclass(frozen=True)
class Limits:
    """What a design may cost: FLOPs in all, runs in all, runs of one cell."""

    budget: float
    cells: int
    repeats: int


@dataclass(frozen=True)
class Candidates:
    """Cells that may be run, and what each would tell."""

    params: Array  # [C]
    tokens: Array  # [C]
    slopes: Array  # of the response by theta, over its error's standard deviation, at every prior, [R, P, C]
    wanted: Array  # derivatives of the quantity by theta at every prior, [R, P]

    @cached_property
    def cost(self) -> Array:
        """FLOPs of one run, [C]."""
        return 6.0 * self.params * self.tokens

    @cached_property
    def values(self) -> Array:
        """Index of each candidate's params, and of its tokens, among the different ones, [2, C]."""
        return np.stack([np.unique(column, return_inverse=True)[1] for column in (self.params, self.tokens)])

    @cached_property
    def fewest(self) -> list[int]:
        """How many sizes and how many token counts a design must have."""
        return [min(VALUES, int(values.max()) + 1) for values in self.values]

    def allowed(self, counts: Array) -> bool:
        """Whether a design [C] has cells enough for the law to be checked."""
        used = self.values[:, counts > 0]
        spread = all(len(set(values)) >= few for values, few in zip(used, self.fewest, strict=True))
        return spread and used.shape[1] >= enough(self.slopes.shape[1])

    def cheapest(self) -> Array:
        """The allowed design of least cost, about: cells by cost, those of a new size or token count first."""
        counts = np.zeros(len(self.cost), int)
        order = np.argsort(self.cost)
        for values, few in zip(self.values, self.fewest, strict=True):
            for value in dict.fromkeys(values[order]):
                if len(set(values[counts > 0])) < few and value not in values[counts > 0]:
                    counts[order[values[order] == value][0]] = 1
        rest = order[counts[order] == 0]
        counts[rest[: max(0, enough(self.slopes.shape[1]) - counts.sum())]] = 1
        return counts

    def score(self, counts: Array) -> float:
        """What is minimised: the mean over priors of ln (half width of the quantity)^2, with a little caution.

        The caution is `CAUTION` times ln det(M^-1) / P. The best design for one quantity alone may leave others all but
        free; its fit then wanders too far for the delta method to hold, and could not show that the law is wrong.
        """
        return _State(self, counts).score


class _State:
    """A design with the inverses of its information matrices, from which every single change is cheap."""

    def __init__(self, candidates: Candidates, counts: Array):
        self.candidates, self.counts = candidates, counts
        slopes = candidates.slopes
        information = np.einsum("rpc,c,rqc->rpq", slopes, counts.astype(float), slopes)
        scale = np.einsum("rpc,rpc->r", slopes, slopes) / slopes.shape[2]
        information = information + 1e-9 * scale[:, None, None] * np.eye(slopes.shape[1])
        self.inverse = np.linalg.inv(information)
        self.log_determinant = np.linalg.slogdet(information)[1]
        aimed = np.einsum("rpq,rq->rp", self.inverse, candidates.wanted)
        self.variance = np.einsum("rp,rp->r", aimed, candidates.wanted)
        self.hit = np.einsum("rp,rpc->rc", aimed, slopes)  # g' M^-1 x of every candidate x
        self.reach = np.einsum("rpc,rpq,rqc->rc", slopes, self.inverse, slopes, optimize=True)  # x' M^-1 x
        self.runs, self.cost = int(counts.sum()), float(counts @ candidates.cost)
        self.score = float(self._scored(self.variance, np.zeros(len(self.variance)), self.runs))

    def _scored(self, variance: Array, growth: Array, runs: int) -> Array:
        """Scores [...] of variances [R, ...] and of how much ln det M has grown, [R, ...]."""
        parameters = self.candidates.slopes.shape[1]
        volume = -(self.log_determinant.reshape(-1, *[1] * (growth.ndim - 1)) + growth).mean(0) / parameters
        quantile = float(special.stdtrit(max(1, runs - parameters), 0.5 + LEVEL / 2))
        return np.log(np.maximum(variance, 1e-300)).mean(0) + 2 * np.log(quantile) + CAUTION * volume

    def added(self) -> Array:
        """Scores with one more run of each candidate, [C]."""
        grown = 1 + self.reach
        return self._scored(self.variance[:, None] - self.hit**2 / grown, np.log(grown), self.runs + 1)

    def exchanged(self, out: Array) -> Array:
        """Scores with one run of each of `out` [K] given up for one of each candidate, [K, C]."""
        slopes = self.candidates.slopes
        left = np.maximum(1 - self.reach[:, out], 1e-9)  # [R, K]
        across = np.einsum("rpk,rpq,rqc->rkc", slopes[:, :, out], self.inverse, slopes, optimize=True)
        variance = self.variance[:, None] + self.hit[:, out] ** 2 / left
        hit = self.hit[:, None] + self.hit[:, out, None] * across / left[..., None]
        reach = self.reach[:, None] + across**2 / left[..., None]
        growth = np.log(left[..., None] * (1 + reach))
        return self._scored(variance[..., None] - hit**2 / (1 + reach), growth, self.runs)

    def changed(self, *, out: int | None = None, to: int | None = None) -> "_State":
        """The design without one run of candidate `out`, and with one more of `to`."""
        counts = self.counts.copy()
        for candidate, change in ((out, -1), (to, 1)):
            if candidate is not None:
                counts[candidate] += change
        return _State(self.candidates, counts)


def search(
    candidates: Candidates, limits: Limits, starts: Sequence[Array] = (), seed: int = 0, progress: Progress = None
) -> Array:
    """Returns the best design found, [C]: greedy starts, given ones and random ones, each improved by exchanges.

    The cheapest allowed design must keep within the limits. `starts` are further designs to improve, each [C]; the seed
    is of the random ones. `progress` is called with (starts done, all starts).
    """
    begun = list(_starts(candidates, limits, starts, np.random.default_rng(seed)))
    found = []
    for i, counts in enumerate(begun):
        found.append(_improve(_State(candidates, counts), limits))
        if progress:
            progress(i + 1, len(begun))
    return min(found, key=lambda state: round(state.score, 11)).counts  # of equal ones the first, whatever the rounding


def _starts(candidates: Candidates, limits: Limits, given: Sequence[Array], rng: np.random.Generator) -> Iterator:
    cost, cheapest = candidates.cost, candidates.cheapest()
    for greed in _GREED:
        yield _filled(_State(candidates, cheapest), limits, greed).counts
    for counts in given:
        if counts @ cost <= limits.budget and counts.sum() <= limits.cells and candidates.allowed(counts):
            yield counts
    for _ in range(_RANDOM_STARTS):
        counts = cheapest.copy()
        for i in rng.permutation(len(counts)):
            fits = counts.sum() < limits.cells and counts @ cost + cost[i] <= limits.budget
            counts[i] += bool(fits and counts[i] < limits.repeats)
        yield counts


def _filled(state: _State, limits: Limits, greed: float = 0.0) -> _State:
    """Adds the run of largest gain / cost^greed until no more can be paid."""
    cost = state.candidates.cost
    while True:
        room = limits.budget * (1 + 1e-12) - state.cost
        possible = (cost <= room) & (state.counts < limits.repeats)
        if state.runs >= limits.cells or not possible.any():
            return state
        gain = np.where(possible, (state.score - state.added()) / cost**greed, -np.inf)
        state = state.changed(to=int(np.argmax(gain)))


def _improve(state: _State, limits: Limits) -> _State:
    """Exchanges and adds until neither helps, nor giving up one run and spending its cost anew."""
    before = None
    while state is not before:
        before = _exchange(state, limits)
        state = _respend(before, limits)
    return state


def _exchange(state: _State, limits: Limits) -> _State:
    cost = state.candidates.cost
    while True:
        state = _filled(state, limits)
        support = np.flatnonzero(state.counts)
        score = state.exchanged(support)
        room = limits.budget * (1 + 1e-12) - state.cost
        score[cost[None] - cost[support][:, None] > room] = np.inf
        score[:, state.counts >= limits.repeats] = np.inf
        best = np.argsort(score, axis=None)[:200]
        out, to = np.unravel_index(best[score.flat[best] < state.score - 1e-9], score.shape)
        changes = (state.changed(out=i, to=j) for i, j in zip(support[out], to, strict=True))
        better = next((change for change in changes if change.candidates.allowed(change.counts)), None)
        if better is None:
            return state
        state = better


def _respend(state: _State, limits: Limits) -> _State:
    """Gives up one run, buys others by gain per cost and by gain; the best such design if it is better."""
    best = state
    for i in np.flatnonzero(state.counts):
        for greed in (1.0, 0.0):
            filled = _filled(state.changed(out=int(i)), limits, greed)
            if filled.score < best.score - 1e-9 and state.candidates.allowed(filled.counts):
                best = filled
    return best
