# SPDX-License-Identifier: Apache-2.0
"""JSON of a schema, against Python's own reader: by brute force over short texts, and along texts drawn at random."""

import itertools
import json
import random
import re

import numpy as np
import pytest

from t5x_like.data.tokenizers import ByteTokenizer
from t5x_like.data.tokenizers.tokenizer import Tokenizer
from t5x_like.errors import UserError
from t5x_like.serving.grammar import Grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"enum": ["a", "bé", 3]}},
        "home": {"$ref": "#/$defs/Home"},
        "score": {"anyOf": [{"type": "number"}, {"type": "boolean"}]},
    },
    "required": ["name", "home"],
    "$defs": {"Home": {"type": "object", "properties": {"zip": {"const": "8000"}}, "required": ["zip"]}},
}


class Pieces(ByteTokenizer):
    """Bytes, and pieces of several."""

    def __init__(self, pieces):
        Tokenizer.__init__(self, [b"", *(bytes([byte]) for byte in range(256)), *pieces], {"pad": 0})


def accepted(grammar, text):
    """Whether a text may come whole, byte by byte."""
    state = grammar.start
    for byte in text:
        state = grammar.after(state, byte + 1)
    return bool(grammar.allowed(state, 257, [0])[0])


def loaded(text):
    """What Python's reader makes of bytes; None for what it refuses, in a list otherwise."""
    try:
        return [json.loads(text.decode(), parse_constant=lambda name: 1 / 0)]
    except (ValueError, ZeroDivisionError):
        return None


@pytest.mark.parametrize(
    ("schema", "letters", "longest", "fits"),
    [
        ({"type": "number"}, b"-+.0179eE ", 5, lambda x: type(x) in (int, float)),
        ({"type": "integer"}, b"-.017e ", 5, lambda x: type(x) is int),
        (
            {"type": "array", "items": {"type": ["boolean", "null"]}},
            [b"[", b"]", b",", b"true", b"null", b"fals"],
            5,
            lambda x: isinstance(x, list) and all(each in (True, False, None) for each in x),
        ),
        (
            {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}},
            [b"{", b"}", b'"a":1', b'"b":2', b","],
            5,
            lambda x: all(x[name] == value for name, value in zip("ab", (1, 2), strict=True) if name in x),
        ),
        ({}, [b"{", b"}", b"[", b"]", b'"a"', b":", b",", b"1"], 6, None),
    ],
)
def test_by_brute_force(schema, letters, longest, fits):
    """Every text of a few letters is accepted just when it is JSON of the schema, its properties in order and once."""
    grammar, count = Grammar(schema, ByteTokenizer()), 0
    parts = [bytes([each]) if isinstance(each, int) else each for each in letters]
    for length in range(1, longest + 1):
        for word in itertools.product(parts, repeat=length):
            text = b"".join(word)
            said = loaded(text) if text == text.strip() else None
            right = said is not None and (fits is None or fits(said[0]))
            if right and isinstance(said[0], dict) and schema:
                right = (
                    list(said[0]) == sorted(said[0]) and text.count(b":") == len(said[0]) and set(said[0]) <= {"a", "b"}
                )
            if right and type(said[0]) is float and b"e" in text.lower():  # exponents have one or two digits
                right = len(text.lower().split(b"e")[1].lstrip(b"+-")) <= 2
            count += right
            assert accepted(grammar, text) == right, text
    assert count > 3


def test_random_walks_are_of_the_schema():
    """Whatever is chosen among what is allowed, by pieces of several bytes too, ends in JSON that fits."""
    pieces = [b'{"name"', b'": ', b'", "home": {"zip": "8000"', b"}}", "né".encode(), "é".encode()[1:], b"\\u", b"12"]
    tokenizer = Pieces(pieces)
    grammar, draw, long = Grammar(PERSON, tokenizer), random.Random(0), 0
    for _ in range(60):
        state, tokens = grammar.start, []
        while not grammar.complete(state):
            mask = grammar.allowed(state, tokenizer.vocab_size, [0])
            plain = {*b'{}[]:,"abe0123456789ntrufalsd ', *range(256, 256 + len(pieces))}
            choices = [int(token) for token in np.flatnonzero(mask)]
            likely = [token for token in choices if token - 1 in plain]
            token = draw.choice(likely or choices if draw.random() < 0.95 else choices)
            if token == 0:
                break
            long += token > 256
            state = grammar.after(state, token)
            tokens.append(token)
        said = json.loads(tokenizer.decode_bytes(tokens).decode())
        assert list(said) == [name for name in PERSON["properties"] if name in said]
        assert isinstance(said["name"], str) and said["home"] == {"zip": "8000"}
        assert said.get("age") is None or type(said["age"]) is int
        assert all(tag in ("a", "bé", 3) for tag in said.get("tags", []))
        assert type(said.get("score", 1)) in (int, float, bool)
    assert long > 60


def test_strings_are_those_that_python_reads():
    grammar, draw, good = Grammar({"type": "string"}, ByteTokenizer()), random.Random(1), 0
    for text in ('""', '"a\\n\\u00e9"', '"é👋\U0010ffff"', '"\\ud83d"', '"\n"', '"\\x"', '"'):
        assert accepted(grammar, text.encode()) == (loaded(text.encode()) is not None and "\\ud" not in text)
    for _ in range(3000):
        inside = bytes(
            draw.choice([*b'a\\"nu0', 0x7F, 0x80, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0, 0x90]) for _ in range(4)
        )
        text = b'"' + inside + b'"'
        right = loaded(text) is not None
        good += right
        assert accepted(grammar, text) == right, text
    assert good > 50


def test_pydantic_models_and_marks(tmp_path):
    pydantic = pytest.importorskip("pydantic")
    Inner = pydantic.create_model("Inner", x=(float, ...))
    Outer = pydantic.create_model("Outer", inner=(list[Inner], ...), note=(str | None, None))
    grammar = Grammar(Outer.model_json_schema(), ByteTokenizer(), "<tool_call>", "</tool_call>")
    text = Outer(inner=[Inner(x=1.5), Inner(x=-2e10)], note="é").model_dump_json()
    assert accepted(grammar, f"<tool_call>{text}</tool_call>".encode()) and not accepted(grammar, text.encode())
    assert grammar.start and not grammar.complete(grammar.start)


def test_values_within_text():
    """By brute force: a text is accepted just when each of its marks is followed by a value and the closing mark, and
    what it ends with is not inside one."""
    grammar, found = Grammar({"enum": [1, 12]}, ByteTokenizer(), "aab", "/", within_text=True), 0
    for length in range(9):
        for letters in itertools.product("ab1/", repeat=length):
            text, rest = "".join(letters), "".join(letters)
            while "aab" in rest and (call := re.match("\n?1/", rest.split("aab", 1)[1])):
                rest = rest.split("aab", 1)[1][call.end() :]
            found += text != rest and "aab" not in rest
            assert accepted(grammar, text.encode()) == ("aab" not in rest), text
    assert found > 100
    assert accepted(grammar, "é aab\n12\n/ aab1/ aa".encode()) and not accepted(grammar, b"aab\n\n1/")
    assert not grammar.complete(grammar.start)


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"type": "strin"}, "did you mean 'string'?"),
        ({"type": "string", "pattern": "a+"}, "schema: 'pattern' is not known; accepted: "),
        ({"$ref": "#/$defs/T", "$defs": {"T": {"anyOf": [{"$ref": "#/$defs/T"}]}}}, "not within itself"),
        ([1], "is no JSON schema"),
    ],
)
def test_mistakes_are_a_line(schema, line):
    with pytest.raises(UserError, match=line.replace("?", r"\?")):
        Grammar(schema, ByteTokenizer())
