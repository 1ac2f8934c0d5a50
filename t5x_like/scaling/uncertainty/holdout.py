# SPDX-License-Identifier: Apache-2.0
"""The test that matters for planning: predict the cells of highest compute from all the others."""

from typing import Any

import numpy as np

from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import Points
from t5x_like.scaling.fitting.solver import find_minimum, rms
from t5x_like.scaling.fitting.surface import surface_of
from t5x_like.scaling.laws.laws import Law, complete

Array = np.ndarray


def held_out(points: Points) -> Array:
    """Returns the mask [n] of the cells to hold out: the fifth of the points of highest compute, at least 2.
    Points of equal compute (other seeds, or other shapes of the same budget) are held out together."""
    compute = points.compute
    edge = np.sort(compute)[-max(2, len(points) // 5)]
    return compute >= edge * (1 - 1e-9)


def predict_largest(law: Law, points: Points, delta: float) -> tuple[dict[str, Any] | None, str | None]:
    """Fits the law without the held-out cells and predicts them: fit.json's `holdout`, or None and a sentence why.

    Errors are (predicted - measured) / measured; `mean_relative_error` has the sign of a systematic miss,
    `worst_relative_error` is the largest in size.
    """
    out = held_out(points)
    rest = points.take(~out)
    try:
        surface = surface_of(law, rest)
    except UserError as error:
        return None, f"No cells could be held out as a test of extrapolation: without the largest, {error}."
    measured = points.measured(law.target)
    theta, _, _ = find_minimum(surface, surface.response(measured[~out]), delta)
    parameters = law.named(surface.natural(theta[None])[0])
    variables = {name: column[out] for name, column in complete(points.variables).items()}
    predicted = np.broadcast_to(law.predict(parameters, variables), out.sum())
    errors = predicted / measured[out] - 1 if law.relative else predicted - measured[out]
    cells = zip(points.params[out], points.tokens[out], measured[out], predicted, errors, strict=True)
    names = ("params", "tokens", "loss", "predicted", "relative_error")
    return {
        "rule": "the fifth of the points of highest compute, at least 2; errors are "
        + ("(predicted - measured) / measured" if law.relative else "predicted - measured"),
        "points": int(out.sum()),
        "compute_ratio": float(points.compute.max() / rest.compute.max()),
        "rms_relative_error": rms(errors),
        "mean_relative_error": float(errors.mean()),
        "worst_relative_error": float(errors[np.argmax(np.abs(errors))]),
        "cells": [dict(zip(names, map(float, cell), strict=True)) for cell in cells],
    }, None
