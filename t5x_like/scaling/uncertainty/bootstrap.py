# SPDX-License-Identifier: Apache-2.0
"""Replicates of a fit: a wild bootstrap of rescaled residuals, and the bootstrap of pairs; every one refitted in full.

Each replicate of the wild bootstrap keeps the design, adds to the fitted log losses the residuals with random signs
(Wu 1986; such signs are also the valid choice for fits close to least absolute deviations, Feng, He and Hu 2011) and
is fitted again with the same Huber threshold. Intervals are percentiles of the replicates, so they respect bounds,
skewness, and any transformation: the exponent a, N*(C) and a predicted loss need no formula of their own.

Three things decide whether that covers in small sweeps, and all concern the residuals:
- They come from the least-squares fit of the same law, not from the Huber fit. With residuals far above delta a Huber
  fit passes through about as many points as the law has parameters; residuals of zero there would claim no noise.
- Each is divided by 1 - leverage (HC3, MacKinnon and White 1985): a surface with 5 parameters and 16 points follows
  every point part of the way, and hides that part of its error.
- In every replicate half of the points, drawn anew, take the residual of any point instead of their own, divided by
  sqrt(1 - leverage), which makes them alike in size. One residual says little about its point: at a corner of the
  design, one that happens to be small would claim that the law is known there.
Runs that share their first steps share what chance did to them (a correlation of .8 between budgets was measured in the
main job): such a group's points take their signs together, their residuals together from another group, and are divided
by the blocks of 1 - leverage (CR3, Bell and McCaffrey 2002). A group of one is what is said above.

On a 4x4 design with normal noise of .3 % nominal 95 % covers 94 to 96 %; the textbook's raw residuals, 65 to 75 %.
The pairs bootstrap (Efron 1979), which draws whole points, is far too wide there: many resamples lose rows of the
design. With a hundred points or more it needs no assumption about the residuals, and is what the literature reports.
"""

from collections.abc import Callable

import numpy as np

from t5x_like.scaling.fitting.solver import minimise, rms
from t5x_like.scaling.fitting.surface import Surface

Array = np.ndarray
Progress = Callable[[int, int], None]

LEAST_SQUARES = 1e6  # a Huber threshold that no residual reaches
POOLED = 0.5  # share of points that take another's residual
_BATCH = 60_000  # replicates times points refitted at once: some 30 MB of derivatives


def rescaled_residuals(
    surface: Surface, target: Array, estimate: Array, groups: Array | None = None
) -> tuple[Array, Array]:
    """Returns least-squares residuals [S, n] over 1 - leverage, and over its square root, for responses [S, n], theta
    [S, P] to start from and a group's number for each point, [n]."""
    theta, _ = minimise(surface, target, estimate, LEAST_SQUARES)
    predicted, jacobian = surface.jacobian(theta)
    gram = jacobian @ jacobian.transpose(0, 2, 1)
    inverse = np.linalg.pinv(gram, rcond=1e-12, hermitian=True)
    missed = target - predicted
    if groups is None:
        leverage = np.einsum("rpn,rpq,rqn->rn", jacobian, inverse, jacobian)
        left = np.maximum(1 - leverage, 1e-3)
        return missed / left, missed / np.sqrt(left)
    own, alike = np.empty_like(missed), np.empty_like(missed)
    for members in (np.flatnonzero(groups == group) for group in np.unique(groups)):
        part = jacobian[:, :, members]
        left, axes = np.linalg.eigh(np.eye(len(members)) - part.transpose(0, 2, 1) @ inverse @ part)
        along = np.einsum("rij,ri->rj", axes, missed[:, members])
        for rescaled, power in ((own, 1.0), (alike, 0.5)):
            shrunk = along / np.maximum(left, 1e-3) ** power
            rescaled[:, members] = np.einsum("rij,rj->ri", axes, shrunk)
    return own, alike


def wild_bootstrap(
    surface: Surface,
    target: Array,
    estimate: Array,
    delta: float,
    replicates: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
    groups: Array | None = None,
) -> Array:
    """Refits R = `replicates` random-sign replicates of S data sets over the same points; returns theta [R, S, P].

    For targets [S, n], S being 1 for a fit, their fits theta [S, P], and numbers of the groups whose points share their
    noise, [n] (None: every point is by itself). `progress` is called with (replicates done, all replicates).
    """
    own, alike = rescaled_residuals(surface, target, estimate, groups)
    fitted = surface.predict(estimate)
    _, group = np.unique(np.arange(own.shape[1]) if groups is None else groups, return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    place = np.array([np.flatnonzero(members[number] == i)[0] for i, number in enumerate(group)])
    taken = np.stack([each[place % len(each)] for each in members])  # [groups, n]: whose residual a point takes

    def draw(rows: int) -> Array:
        shape = (rows, len(own), len(members))
        donors = taken[rng.integers(len(members), size=shape)[..., group], np.arange(len(group))]
        others = np.take_along_axis(alike[None], donors, 2)
        noise = np.where((rng.random(shape) < POOLED)[..., group], others, own)
        targets = (fitted + rng.choice([-1.0, 1.0], size=shape)[..., group] * noise).reshape(-1, own.shape[1])
        return refit(surface, targets, np.tile(estimate, (rows, 1)), delta).reshape(*shape[:2], -1)

    return _in_batches(draw, replicates, own.size, progress)


def pairs_bootstrap(
    surface: Surface,
    target: Array,
    estimate: Array,
    delta: float,
    replicates: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> Array:
    """Refits resamples of the points themselves, with replacement: targets [n], theta [P]; returns theta [R, P]."""
    n = len(target)

    def draw(rows: int) -> Array:
        counts = rng.multinomial(n, np.full(n, 1 / n), size=rows).astype(float)
        return refit(surface, np.tile(target, (rows, 1)), np.tile(estimate, (rows, 1)), delta, counts)

    return _in_batches(draw, replicates, n, progress)


def _in_batches(draw: Callable[[int], Array], replicates: int, size: int, progress: Progress | None) -> Array:
    """Calls `draw` with numbers of replicates, each of `size` responses, that add up to all of them."""
    per_batch, out = max(1, _BATCH // size), []
    for done in range(0, replicates, per_batch):
        out.append(draw(min(per_batch, replicates - done)))
        if progress:
            progress(min(done + per_batch, replicates), replicates)
    return np.concatenate(out)


def refit(surface: Surface, target: Array, start: Array, delta: float, weights: Array | None = None) -> Array:
    """Fits [R, n] targets from starts nearby, far more finely than they scatter; a wider threshold goes first."""
    scatter = rms(surface.predict(start) - target)
    if scatter > delta:
        start, _ = minimise(surface, target, start, 10 * delta, weights, steps=20, tolerance=1e-3)
    return minimise(surface, target, start, delta, weights, steps=60, tolerance=1e-6)[0]
