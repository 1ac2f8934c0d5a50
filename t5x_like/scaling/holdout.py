# SPDX-License-Identifier: Apache-2.0
"""The test that matters for planning: predict the cells of highest compute from all the others."""

from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.laws import Law
from t5x_like.scaling.points import Points
from t5x_like.scaling.solver import Surface, find_minimum

Array = np.ndarray

SAME = 0.01  # logarithms closer than this count as one value: tokens are rounded to whole steps


def held_out(points: Points) -> Array:
    """Returns the mask [n] of the cells to hold out: the fifth of the points of highest compute, at least 2.

    Points of equal compute (other seeds, or other shapes of the same budget) are held out together.
    """
    compute = points.compute
    edge = np.sort(compute)[-max(2, len(points) // 5)]
    return compute >= edge * (1 - 1e-9)


def predict_largest(law: Law, points: Points, delta: float) -> tuple[dict[str, Any] | None, str | None]:
    """Fits the law without the held-out cells and predicts them.

    Returns:
      fit.json's `holdout`: errors are (predicted - measured) / measured; `mean_relative_error` has the sign of a
      systematic miss, `worst_relative_error` is the largest in size. Or None, and a sentence saying why.
    """
    out = held_out(points)
    rest = points.take(~out)
    try:
        surface = surface_over(law, rest)
    except UserError as error:
        return None, f"No cells could be held out as a test of extrapolation: without the largest, {error}."
    theta, _, _ = find_minimum(surface, np.log(rest.loss), delta)
    parameters = law.named(surface.natural(theta[None])[0])
    variables = {name: column[out] for name, column in points.variables.items()}
    predicted = np.broadcast_to(law.predict(parameters, variables), out.sum())
    errors = predicted / points.loss[out] - 1
    cells = zip(points.params[out], points.tokens[out], points.loss[out], predicted, errors, strict=True)
    names = ("params", "tokens", "loss", "predicted", "relative_error")
    return {
        "rule": "the fifth of the points of highest compute, at least 2; errors are (predicted - measured) / measured",
        "points": int(out.sum()),
        "compute_ratio": float(points.compute.max() / rest.compute.max()),
        "rms_relative_error": float(np.sqrt(np.mean(errors**2))),
        "mean_relative_error": float(errors.mean()),
        "worst_relative_error": float(errors[np.argmax(np.abs(errors))]),
        "cells": [dict(zip(names, map(float, cell), strict=True)) for cell in cells],
    }, None


def surface_over(law: Law, points: Points) -> Surface:
    """Returns the law on the points, or refuses points that cannot determine it.

    Raises:
      UserError: a variable of the law is missing or not positive; too few points; fewer than three values of a
        variable; all points on one line of log params and log tokens, where exchanging the exponents leaves every
        prediction as it was.
    """
    variables = {}
    for name in law.variables:
        if name not in points.variables:
            given = ", ".join(points.variables)
            raise UserError(f"law {law.name!r} reads the column {name!r}; {points.source} has {given}")
        variables[name] = points.variables[name]
        if not (np.isfinite(variables[name]) & (variables[name] > 0)).all():
            raise UserError(f"law {law.name!r} needs a positive {name!r} in every row of {points.source}")
    needed = len(law.parameters) + 1
    if len(points) < needed:
        raise UserError(
            f"law {law.name!r} has {needed - 1} parameters and needs at least {needed} points, to leave an error bar; "
            f"{points.source} has {len(points)} usable"
        )
    _refuse_a_poor_design(law, variables)
    return Surface.over(law, variables, points.loss)


def _refuse_a_poor_design(law: Law, variables: dict[str, Array]) -> None:
    logs = np.stack([np.log(column) for column in variables.values()], 1)
    for name, column in zip(variables, logs.T, strict=True):
        distinct = 1 + int((np.diff(np.sort(column)) > SAME).sum())
        if distinct < 3:
            times = "one value" if distinct == 1 else "two values"
            raise UserError(
                f"all {len(logs)} points have only {times} of {name}; law {law.name!r} needs at least three, to tell "
                "how fast the loss falls from where it ends"
            )
    if len(law.nonlinear) < 2 or len(variables) < 2:
        return
    width = np.linalg.svd(logs - logs.mean(0), compute_uv=False)[-1] / np.sqrt(len(logs))
    if width < SAME:
        raise UserError(
            f"all {len(logs)} points lie on one line of log {' and log '.join(variables)} (such as tokens = k params): "
            f"{' and '.join(law.nonlinear)} cannot be told apart; add cells that leave the line"
        )
