# SPDX-License-Identifier: Apache-2.0
"""Strict conversion on dataclasses of the test's own: every error is one line that names the field."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from t5x_like.errors import UserError
from t5x_like.strict import FieldError, convert, to_dict


@dataclass(frozen=True)
class Circle:
    kind: Literal["circle"] = "circle"
    radius: float = 1.0

    def __post_init__(self):
        if self.radius < 0:
            raise FieldError("radius", f"{self.radius} is negative")


@dataclass(frozen=True)
class Square:
    kind: Literal["square"] = "square"
    side: int = 2
    sides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Drawing:
    shape: Circle | Square
    name: str = "untitled"
    count: int | None = None
    filled: bool = False
    colour: Literal["red", "green"] = "red"
    inner: Square = field(default_factory=Square)
    extra: dict[str, Any] = field(default_factory=dict)


def test_converts_nested_fields_and_back():
    content = {
        "shape": {"kind": "square", "side": 3e2, "sides": [1, 2.0]},
        "count": 7,
        "inner": {"side": 5},
        "extra": {"free": [1]},
    }
    drawing = convert(Drawing, content)
    assert drawing == Drawing(Square(side=300, sides=(1, 2)), count=7, inner=Square(side=5), extra={"free": [1]})
    assert isinstance(drawing.shape, Square) and type(drawing.shape.side) is int
    assert convert(Drawing, to_dict(drawing)) == drawing
    assert to_dict(drawing)["shape"] == {"kind": "square", "side": 300, "sides": [1, 2]}


def test_an_int_is_taken_for_a_float():
    radius = convert(Circle, {"radius": 2}).radius
    assert radius == 2.0 and type(radius) is float


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"nmae": "x"}, r"^nmae: no such field; accepted: .*; did you mean 'name'\?$"),
        ({"shape": {"kind": "circle", "raduis": 1}}, r"^shape\.raduis: no such field; .*did you mean 'radius'\?$"),
        (
            {"shape": {"kind": "circel"}},
            r"^shape\.kind='circel': expected one of: circle, square; did you mean 'circle'",
        ),
        ({"shape": {"side": 1}}, r"^shape\.kind=None: expected one of: circle, square$"),
        ({"shape": 3}, r"^shape=3: expected fields with a kind, one of: circle, square$"),
        ({"shape": {"kind": "circle", "radius": "big"}}, r"^shape\.radius='big': expected a number$"),
        ({"shape": {"kind": "circle", "radius": True}}, r"^shape\.radius=True: expected a number$"),
        ({"shape": {"kind": "circle", "radius": -1}}, r"^shape\.radius: -1\.0 is negative$"),
        ({"shape": {"kind": "square", "side": 1.5}}, r"^shape\.side=1\.5: expected an integer$"),
        ({"shape": {"kind": "square", "sides": [1, "a"]}}, r"^shape\.sides\[1\]='a': expected an integer$"),
        ({"shape": {"kind": "square", "sides": 1}}, r"^shape\.sides=1: expected a list of an integer$"),
        ({"count": "many"}, r"^count='many': expected an integer or None$"),
        ({"count": True}, r"^count=True: expected an integer or None$"),
        ({"filled": 1}, r"^filled=1: expected True or False$"),
        ({"name": 3}, r"^name=3: expected a string$"),
        ({"name": None}, r"^name=None: expected a string$"),
        ({"colour": "gren"}, r"^colour='gren': expected 'red' \| 'green'; did you mean 'green'\?$"),
        ({"inner": 3}, r"^inner=3: expected Square$"),
        ({"inner": {"side": None}}, r"^inner\.side=None: expected an integer$"),
    ],
)
def test_refusals_name_the_field_and_what_is_accepted(change, expected):
    with pytest.raises(UserError) as caught:
        convert(Drawing, {"shape": {"kind": "circle"}} | change)
    assert re.search(expected, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_says_what_it_expects():
    with pytest.raises(UserError, match=r"^shape: is missing; expected Circle or Square$"):
        convert(Drawing, {})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(UserError, match=r"^radius=.*: expected a finite number$"):
        convert(Circle, {"radius": value})
