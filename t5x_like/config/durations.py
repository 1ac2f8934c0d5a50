# SPDX-License-Identifier: Apache-2.0
"""Durations: stretches of a run in steps, tokens, examples, epochs or per cent of the run.

A field that holds one takes a whole number of steps or a text such as "500 steps", "1e6 tokens", "2e4 examples",
"0.5 epochs" or "10%". `resolve` turns it into whole steps, so that how it was spelt leaves no trace.
"""

import math
from dataclasses import dataclass

from t5x_like.errors import nearest
from t5x_like.strict import FieldError

Duration = int | str

UNITS = ("steps", "tokens", "examples", "epochs")
_ACCEPTED = "a whole number of steps, or '500 steps', '1e6 tokens', '2e4 examples', '0.5 epochs', '10%' (of the run)"


@dataclass(frozen=True)
class Measures:
    """How long a step, an epoch and the run are; None where that is not known yet."""

    batch_size: int  # examples in a step
    sequence_length: int  # tokens in an example
    epoch_examples: float | None = None  # that the training data has; infinity: it never ends
    steps: int | None = None  # of the whole run


def parse(field: str, value: Duration) -> tuple[float, str]:
    """Returns a duration as (amount, unit), the unit one of UNITS or "%". Raises FieldError: it is no duration, or not
    above 0."""
    if isinstance(value, int):
        amount, unit = float(value), "steps"
    else:
        text = value.strip()
        number, _, unit = (text[:-1].strip(), "", "%") if text.endswith("%") else text.rpartition(" ")
        try:
            amount = float(number)
        except ValueError:
            raise FieldError(field, f"{value!r} is no duration; accepted: {_ACCEPTED}") from None
        unit = unit if unit.endswith(("s", "%")) else f"{unit}s"
        if unit not in (*UNITS, "%"):
            raise FieldError(field, f"{value!r} has no known unit; accepted: {_ACCEPTED}{nearest(unit, UNITS)}")
    if unit == "steps" and amount < 1:
        raise FieldError(field, f"{value!r} is below 1 step" if isinstance(value, str) else f"{value} is below 1")
    if not 0 < amount < math.inf:
        raise FieldError(field, f"{value!r} is not above 0")
    return amount, unit


def resolve(field: str, value: Duration | None, measures: Measures) -> Duration | None:
    """Returns a duration in whole steps, at least one, or as it is where what it needs is not known yet. Raises
    FieldError: see `parse`; and epochs of data that never ends."""
    if value is None:
        return None
    amount, unit = parse(field, value)
    ratio = _steps_in(field, unit, measures)
    return value if ratio is None else max(1, round(amount * ratio[0] / ratio[1]))


def _steps_in(field: str, unit: str, measures: Measures) -> tuple[float, float] | None:
    """Steps in one of a unit, as a fraction (which rounds once), or None where that is not known yet."""
    batch = measures.batch_size
    if unit == "%":
        return None if measures.steps is None else (measures.steps, 100)
    if unit == "epochs":
        if measures.epoch_examples == math.inf:
            raise FieldError(field, "this data never ends, so it has no epochs; give steps, tokens or examples")
        return None if measures.epoch_examples is None else (measures.epoch_examples, batch)
    return 1, {"steps": 1, "tokens": batch * measures.sequence_length, "examples": batch}[unit]


def whole_steps(value: Duration | None) -> int | None:
    """A resolved duration, which is a number."""
    if isinstance(value, str):
        raise TypeError(f"{value!r} was never resolved")
    return value
