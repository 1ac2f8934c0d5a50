# SPDX-License-Identifier: Apache-2.0
"""Kinds that are found because their files are there: a new one is a file, and nowhere is there a list to add it to."""

import importlib
import pkgutil
from typing import Any, Literal, TypeVar, Union, get_origin, get_type_hints

T = TypeVar("T")


def kinds_in(package: str, base: type[T]) -> Any:
    """The union of all subclasses of `base` with a `kind: Literal[...]` of their own in the modules of a package."""
    found: list[type[T]] = []
    for file in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{file.name}")
        for one in vars(module).values():
            is_own = isinstance(one, type) and issubclass(one, base) and one.__module__ == module.__name__
            if is_own and get_origin(get_type_hints(one)["kind"]) is Literal:
                found.append(one)
    return Union[tuple(found)]  # noqa: UP007  # known only now
