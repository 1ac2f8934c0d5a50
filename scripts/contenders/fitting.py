# SPDX-License-Identifier: Apache-2.0
"""Fitting a scaling law to 240 points: the global fit, 1,000 bootstrap refits, and the whole program."""

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t5x_like.errors import UserError

DELTA, STARTS = 1e-3, 36


def _points(sides: tuple[int, int] = (16, 15)) -> dict[str, np.ndarray]:
    """A 16 x 15 grid of a Chinchilla law with 1 % noise: 240 points."""
    params, tokens = (
        a.ravel() for a in np.meshgrid(np.geomspace(5e7, 1.5e10, sides[0]), np.geomspace(3e8, 3e11, sides[1]))
    )
    exact = 1.82 + 478 / params**0.347 + 2143 / tokens**0.367
    loss = exact * np.exp(0.01 * np.random.default_rng(0).normal(size=len(exact)))
    return {"params": params, "tokens": tokens, "loss": loss}


def ours(*, bootstrap: int = 0) -> tuple[Callable[[int], None], int]:
    """Returns `work(calls)`: the global search, or `bootstrap` wild refits from its minimum."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from t5x_like.scaling.fitting.points import read_points
    from t5x_like.scaling.fitting.solver import find_minimum
    from t5x_like.scaling.fitting.surface import surface_of
    from t5x_like.scaling.laws.catalogue import CHINCHILLA
    from t5x_like.scaling.uncertainty.bootstrap import wild_bootstrap

    points = read_points(_points())
    surface = surface_of(CHINCHILLA, points)
    target = surface.response(points.loss)
    theta, _, _ = find_minimum(surface, target, DELTA)

    def work(calls: int) -> None:
        for call in range(calls):
            if bootstrap:
                rng = np.random.default_rng(call)
                wild_bootstrap(surface, target[None], theta[None], DELTA, bootstrap, rng)
            else:
                find_minimum(surface, target, DELTA)

    return work, max(1, bootstrap)


def scipy_grid() -> tuple[Callable[[int], None], int]:
    """Returns `work(calls)`: the published way, L-BFGS from a grid of starts on the log-sum-exp parametrisation."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    columns = _points()

    def work(calls: int) -> None:
        for _ in range(calls):
            scipy_minimum(columns)

    return work, 1


def scipy_minimum(columns: dict[str, np.ndarray]) -> float:
    """Returns the lowest objective that L-BFGS reaches from the starts."""
    from scipy import optimize, special

    log_n, log_d, log_loss = (np.log(columns[name]) for name in ("params", "tokens", "loss"))

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        terms = np.stack([x[0] - x[3] * log_n, x[1] - x[4] * log_d, np.broadcast_to(x[2], log_n.shape)])
        residuals = special.logsumexp(terms, axis=0) - log_loss
        shares = special.softmax(terms, axis=0) * np.clip(residuals, -DELTA, DELTA)
        gradient = [shares[0].sum(), shares[1].sum(), shares[2].sum()]
        gradient += [-(shares[0] * log_n).sum(), -(shares[1] * log_d).sum()]
        return float(special.huber(DELTA, residuals).sum() / DELTA), np.array(gradient) / DELTA

    exponents = np.linspace(0.1, 1.5, round(STARTS**0.5))
    starts = [(5.0, 5.0, 0.5, a, b) for a in exponents for b in exponents]
    found = [
        optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15}) for start in starts
    ]
    return float(min(result.fun for result in found) * DELTA)


def program(*, script: str, bootstrap: int = 1000) -> tuple[Callable[[int], None], int]:
    """Returns `work(calls)`: scripts/fit.py from start to exit, with its pictures and its report."""
    folder = tempfile.mkdtemp()
    with open(Path(folder) / "points.csv", "w", newline="") as file:
        columns = _points()
        writer = csv.writer(file)
        writer.writerows([columns, *zip(*columns.values(), strict=True)])

    def work(calls: int) -> None:
        for _ in range(calls):
            flags = [f"--points={folder}/points.csv", f"--out={folder}/fit", f"--bootstrap={bootstrap}"]
            done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
            if done.returncode:
                raise UserError((done.stderr.strip() or "it failed").splitlines()[-1])

    return work, 1
