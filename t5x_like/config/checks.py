# SPDX-License-Identifier: Apache-2.0
"""What several configs check of fields by name; None is no number, and passes."""

import re
from collections.abc import Iterable
from typing import Any

from t5x_like.strict import FieldError


def at_least(config: Any, low: float, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) is not None and not value >= low:
            raise FieldError(name, f"{value} is below {low}")


def above_zero(config: Any, *names: str, more: str = "") -> None:
    for name in names:
        if (value := getattr(config, name)) is not None and not value > 0:
            raise FieldError(name, f"{value} is not above 0{more}")


def inside(config: Any, interval: str, *names: str) -> None:
    """An interval as mathematics writes it, such as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        if (value := getattr(config, name)) is None:
            continue
        below_high = value <= high if interval[-1] == "]" else value < high
        if not ((value >= low if interval[0] == "[" else value > low) and below_high):
            raise FieldError(name, f"{value} is outside {interval}")


def divisors(number: int) -> str:
    return ", ".join(str(i) for i in range(1, number + 1) if number % i == 0)


def regular_expressions(name: str, patterns: Iterable[str]) -> None:
    """Refuses a pattern of the field, a list, that is none."""
    for number, pattern in enumerate(patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            raise FieldError(f"{name}[{number}]", f"{pattern!r} is no regular expression ({error})") from None
