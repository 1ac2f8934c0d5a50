# SPDX-License-Identifier: Apache-2.0
"""Everything that is said about a fit besides the fit: hung on it by name, ready for fit.json and the report."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.reporting.wording import percent
from t5x_like.scaling.analysis import isoflop
from t5x_like.scaling.analysis.leaderboard import leaderboard
from t5x_like.scaling.fitting.fit import Fit
from t5x_like.scaling.uncertainty.coverage import best_method, simulate
from t5x_like.scaling.uncertainty.sensitivity import by_threshold, by_window, influence

Progress = Callable[[str, int, int], None]


def analyse(
    fit: Fit,
    ranking: dict[str, Any] | None = None,
    progress: Progress | None = None,
    done: Callable[[Fit], None] | None = None,
) -> Fit:
    """Returns the fit with `leaderboard`, `sensitivity`, `influence`, `interval_methods` and, of budgets, `isoflop`.

    Laws are ranked only where they predict a loss from params and tokens; `ranking` is a leaderboard of these points,
    if there is one already. `progress` is called with (what, done, all), `done` with the fit as soon as one more
    analysis hangs on it.
    """

    def ranked(fit: Fit) -> dict[str, Any] | None:
        if ranking or fit.law.target != "loss":
            return ranking
        return leaderboard(fit.points, delta=fit.huber_delta, progress=_told(progress, "leaderboard"))

    methods = dict.fromkeys((fit.interval_method, "delta", "profile"))  # the last two need no further replicates
    makers: dict[str, Callable[[Fit], Any]] = {  # the slowest last, so that pictures of the others are drawn meanwhile
        "influence": influence,
        "isoflop": _iso_flop,
        "interval_methods": lambda fit: {name: found for name in methods if (found := fit.intervals_by(name))},
        "sensitivity": lambda fit: {"threshold": by_threshold(fit), "window": by_window(fit)},
        "leaderboard": ranked,
    }
    for name, make in makers.items():
        if (found := make(fit)) is not None:
            fit = fit.with_analyses(**{name: found})
            if done:
                done(fit)
    return fit


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return partial(progress, what) if progress else None


def _iso_flop(fit: Fit) -> dict[str, Any] | None:
    try:
        found = isoflop.analyse(fit.points)
    except UserError:  # not a design of equal compute: most are not, and nobody asked
        return None
    against = found.against(fit).to_json() if fit.compute_optimal else None
    return {**found.to_json(), "against_surface": against}


def coverage(fit: Fit, simulations: int, progress: Progress | None = None) -> tuple[Fit, str]:
    """Simulates the fit's own design, and returns the fit with `coverage`, and the method that covers best there."""
    degrees = max(1, len(fit.points) - len(fit.theta))
    noise = float(np.sqrt((fit.misses**2).sum() / degrees))
    told, design = _told(progress, "coverage"), (fit.surface, fit.theta, noise, fit.huber_delta)
    result = simulate(*design, simulations=simulations, seed=fit.seed, progress=told)
    return fit.with_analyses(coverage=result), best_method(result)


def coverage_sentences(result: dict[str, Any]) -> list[str]:
    """Says how each method did, best first."""
    best = best_method(result)
    return [
        f"{name}: nominal 95 % intervals held the truth {percent(found['mean'])} of the time on average, "
        f"{percent(found['lowest'])} to {percent(found['highest'])} by quantity."
        for name, found in sorted(result["methods"].items(), key=lambda item: item[0] != best)
    ]
