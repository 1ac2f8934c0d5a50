# SPDX-License-Identifier: Apache-2.0
"""What fields may hold, said where they are declared: `width: Count = 64` is at least 1.

A class derived from `Checked` refuses other values with a `FieldError`. None passes, and so do words such as "auto"
where a number may stand. A subclass that declares a field anew keeps its checks.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

from t5x_like.strict import FieldError

Check = Callable[[str, Any], None]  # refuses a value of the field of a name


class Checked:
    """A dataclass whose fields say what they may hold."""

    def __post_init__(self) -> None:
        for name, check in _checks_of(type(self)):  # type: ignore[arg-type]  # a class can be hashed
            if (value := getattr(self, name)) is not None:
                check(name, value)

    def refuse(self, field: str, fault: str) -> NoReturn:
        """Raises a `FieldError` that says the field's value and what is wrong with it."""
        raise FieldError(field, f"{getattr(self, field)} {fault}")


@functools.cache
def _checks_of(cls: type) -> list[tuple[str, Check]]:
    found: list[tuple[str, Check]] = []
    for base in reversed(cls.__mro__):
        hints = get_type_hints(base, include_extras=True) if "__annotations__" in vars(base) else {}
        for name in vars(base).get("__annotations__", {}):
            kinds = (hints[name], *get_args(hints[name]))  # the latter of `Count | None`
            found += [(name, check) for kind in kinds for check in getattr(kind, "__metadata__", ())]
    return found


def _number(passes: Callable[[Any], bool], fault: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) and not passes(value):
            raise FieldError(name, f"{value} {fault}")

    return check


def at_least(low: float) -> Check:
    return _number(lambda value: value >= low, f"is below {low}")


def above_zero(more: str = "") -> Check:
    return _number(lambda value: value > 0, f"is not above 0{more}")


def inside(interval: str) -> Check:
    """An interval as mathematics writes it, such as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))

    def passes(value: float) -> bool:
        above_low = value >= low if interval[0] == "[" else value > low
        return above_low and (value <= high if interval[-1] == "]" else value < high)

    return _number(passes, f"is outside {interval}")


def between(low: float, high: float, more: str = "") -> Check:
    """Both ends are accepted."""
    return _number(lambda value: low <= value <= high, f"is outside {low} to {high}{more}")


def given(what: str) -> Check:
    """Refuses what is empty; `what` says what to give."""

    def check(name: str, value: Any) -> None:
        if not value:
            raise FieldError(name, f"is empty; give {what}")

    return check


def regular_expressions(name: str, patterns: Iterable[str]) -> None:
    """Refuses a pattern of the field, a list, that is none."""
    for number, pattern in enumerate(patterns):
        try:
            re.compile(pattern)
        except re.error as error:
            raise FieldError(f"{name}[{number}]", f"{pattern!r} is no regular expression ({error})") from None


Count = Annotated[int, at_least(1)]
WholeNumber = Annotated[int, at_least(0)]
Coefficient = Annotated[float, at_least(0)]
Positive = Annotated[float, above_zero()]
Fraction = Annotated[float, inside("(0, 1)")]
Share = Annotated[float, inside("[0, 1]")]
Rate = Annotated[float, inside("[0, 1)")]
Patterns = Annotated[tuple[str, ...], regular_expressions]
Kernels = Annotated[Patterns, given("regular expressions of kernels' names, such as ['.*/kernel']")]


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether a whole name matches one of some regular expressions."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def divisors(number: int) -> str:
    return ", ".join(str(i) for i in range(1, number + 1) if number % i == 0)
