# SPDX-License-Identifier: Apache-2.0
"""Strict conversion of plain dicts into frozen dataclasses, and back.

Knows nothing of any particular field. A dataclass may raise `FieldError` from `__post_init__`; every error comes out
as one line that starts with the dotted path of the field.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from t5x_like.errors import UserError, nearest

T = TypeVar("T")
_hints: Callable[[Any], dict[str, Any]] = functools.cache(get_type_hints)
_is_dataclass: Callable[[Any], bool] = dataclasses.is_dataclass  # which would narrow types to instances


class FieldError(ValueError):
    """A value that a dataclass refuses: the field's name and what would be accepted."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


def convert(cls: type[T], content: Mapping[str, Any], path: str = "") -> T:
    """Builds the dataclass `cls` from a nested mapping.

    Every key must be a field; a value must have the field's type (an integral float such as 1e6 counts as an int, an
    int as a float, a list as a tuple). Unions of dataclasses are told apart by their `kind: Literal[...]` field. A
    dataclass with a classmethod `complete(mapping) -> mapping` may first carry values from one field to another. Raises
    UserError: one line naming the field, the value and what is accepted."""
    complete = getattr(cls, "complete", None)
    content = content if complete is None else complete(content)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in map(str, content):
        if key not in fields:
            raise UserError(f"{_join(path, key)}: no such field; accepted: {', '.join(fields)}{nearest(key, fields)}")
    for name, field in fields.items():
        if name not in content and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"{_join(path, name)}: is missing; expected {_describe(hints[name])}")
    given = {key: _with_default_kind(fields[key].default_factory, value) for key, value in content.items()}
    values = {key: _value(hints[key], value, _join(path, key)) for key, value in given.items()}
    try:
        return cls(**values)
    except FieldError as error:
        raise UserError(f"{_join(path, error.field)}: {error}") from None


def to_dict(value: Any) -> Any:
    """The inverse of `convert`, in types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    return value


def without_defaults(value: Any) -> Any:
    """Like `to_dict`, but only with the fields that differ from their defaults, and every `kind`.

    So a field that a later version adds, at a default that changes nothing, does not change the result.
    """
    if not _is_dataclass(value) or isinstance(value, type):
        return to_dict(value)
    kept = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if _is_dataclass(item) or field.name == "kind" or item != default:
            kept[field.name] = without_defaults(item)
    return kept


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(cls: type) -> str:
    return get_args(_hints(cls)["kind"])[0]


def _describe(hint: Any) -> str:
    """Says in words what a type accepts."""
    if get_origin(hint) is Literal:
        return " | ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(hint))
    if get_origin(hint) is tuple:
        members = get_args(hint)
        if members[-1] is Ellipsis:
            return f"a list of {_describe(members[0])}"
        return f"[{', '.join(_describe(member) for member in members)}]"
    if hint is type(None):
        return "None"
    words = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _refuse(hint: Any, value: Any, path: str) -> UserError:
    close = ""
    if get_origin(hint) is Literal and isinstance(value, str):
        close = nearest(value, [choice for choice in get_args(hint) if isinstance(choice, str)])
    return UserError(f"{path}={value!r}: expected {_describe(hint)}{close}")


def _with_default_kind(default: Any, value: Any) -> Any:
    """Fields given without their kind belong to the kind that the field has by default."""
    fields = getattr(default, "__dataclass_fields__", {})
    named = "kind" in fields and get_origin(_hints(default)["kind"]) is Literal
    if isinstance(value, Mapping) and "kind" not in value and named:
        return {"kind": _kind(default), **value}
    return value


def _value(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(hint, value, path)
    if origin is Literal:
        if value in get_args(hint):
            return value
    elif origin is tuple:
        members = get_args(hint)
        if isinstance(value, list | tuple):
            members = members[:1] * len(value) if members[-1] is Ellipsis else members
            if len(members) == len(value):
                pairs = enumerate(zip(members, value, strict=True))
                return tuple(_value(member, item, f"{path}[{i}]") for i, (member, item) in pairs)
    elif origin is dict:
        if isinstance(value, Mapping):
            return {key: _value(get_args(hint)[1], item, f"{path}.{key}") for key, item in value.items()}
    elif _is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return convert(hint, value, path)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise UserError(f"{path}={value!r}: expected a finite number")
        return float(value)
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif type(value) is hint:
        return value
    raise _refuse(hint, value, path)


def _union(hint: Any, value: Any, path: str) -> Any:
    members = get_args(hint)
    if value is None and type(None) in members:
        return None
    classes = [member for member in members if _is_dataclass(member)]
    if len(classes) == 1 and "kind" not in _hints(classes[0]):  # a part that may be absent
        return _value(classes[0], value, path)
    kinds = {_kind(member): member for member in classes}
    if not kinds:
        simple = [member for member in members if member is not type(None)]
        for member in simple:
            try:
                return _value(member, value, path)
            except UserError:
                continue
        raise _refuse(hint, value, path)
    if isinstance(value, tuple(kinds.values())):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{path}={value!r}: expected fields with a kind, one of: {', '.join(sorted(kinds))}")
    kind = value.get("kind")
    if kind not in kinds:
        raise UserError(f"{path}.kind={kind!r}: expected one of: {', '.join(sorted(kinds))}{nearest(str(kind), kinds)}")
    return convert(kinds[kind], value, path)
