# SPDX-License-Identifier: Apache-2.0
"""Kinds that are found because their code is there: a new one is a file, and nowhere is there a list to add it to."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any, Literal, Union, get_origin, get_type_hints


def kinds_in(package: str, base: type) -> Any:
    """The union of the kinds in all modules of a package, see `kinds_of`."""
    files = pkgutil.iter_modules(importlib.import_module(package).__path__)
    modules = [importlib.import_module(f"{package}.{file.name}") for file in files]
    return Union[tuple(kind for module in modules for kind in _kinds(module, base))]  # noqa: UP007  # known only now


def kinds_of(module: ModuleType, base: type) -> Any:
    """The union of all subclasses of `base` with a `kind: Literal[...]` that a module defines."""
    return Union[tuple(_kinds(module, base))]  # noqa: UP007


def _kinds(module: ModuleType, base: type) -> list[type]:
    own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    return [one for one in own if issubclass(one, base) and get_origin(get_type_hints(one)["kind"]) is Literal]
