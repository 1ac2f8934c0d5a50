# SPDX-License-Identifier: Apache-2.0
"""What several configs check."""

from typing import Any

from t5x_like.strict import FieldError


def positive(config: Any, name: str) -> None:
    if not getattr(config, name) >= 1:
        raise FieldError(name, f"{getattr(config, name)} is below 1")


def divisors(number: int) -> str:
    return ", ".join(str(i) for i in range(1, number + 1) if number % i == 0)
