# SPDX-License-Identifier: Apache-2.0
"""Text that is JSON of a schema: a finite automaton over bytes, walked by tokens (Willard and Louf 2023).

Of schemas it reads type, properties, required, items, enum, const, anyOf, and $ref to $defs that are not within
themselves; what says nothing is any value up to four deep. Properties come in their order, strings are valid UTF-8, and
behind a comma or colon there is at most one space.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from t5x_like.data.tokenizers import Tokenizer
from t5x_like.errors import UserError, unknown_name

State = frozenset[int]  # of nodes, closed under steps without a byte; the empty one is where nothing may come
_READ = ["type", "properties", "required", "items", "additionalProperties", "enum", "const", "anyOf", "$ref", "$defs"]
_IDLE = ["title", "description", "default", "examples", "$schema", "$id", "strict"]
_ANYTHING: Any = {"type": ["string", "number", "boolean", "null"]}
for _ in range(3):
    deeper = [{"type": "array", "items": _ANYTHING}, {"type": "object", "additionalProperties": _ANYTHING}]
    _ANYTHING = {"anyOf": [_ANYTHING.get("anyOf", [_ANYTHING])[0], *deeper]}
_HEX, _DIGIT, _TAIL = b"0123456789abcdefABCDEF", b"0123456789", range(0x80, 0xC0)
_CHARACTERS: list[Sequence[Iterable[int]]] = [  # of a string, as bytes of one set after the other
    [{*range(0x20, 0x80)} - {*b'"\\'}],
    [b"\\", b'"\\/bfnrt'],
    [b"\\", b"u", {*_HEX} - {*b"dD"}, _HEX, _HEX, _HEX],
    [b"\\", b"u", b"dD", b"01234567", _HEX, _HEX],  # no half of a pair
    [range(0xC2, 0xE0), _TAIL],
    [[0xE0], range(0xA0, 0xC0), _TAIL],
    [{*range(0xE1, 0xF0)} - {0xED}, _TAIL, _TAIL],
    [[0xED], range(0x80, 0xA0), _TAIL],
    [[0xF0], range(0x90, 0xC0), _TAIL, _TAIL],
    [range(0xF1, 0xF4), _TAIL, _TAIL, _TAIL],
    [[0xF4], range(0x80, 0x90), _TAIL, _TAIL],
]


class Grammar:
    """What a tokenizer's tokens may spell, from the state `start` on. Nodes are built from the end: every part is told
    what follows it."""

    def __init__(
        self, schema: Any, tokenizer: Tokenizer, before: str = "", after: str = "", *, within_text: bool = False
    ):
        """`before` and `after` stand around the value, maybe on lines of their own; `within_text` any text, and further
        values, may stand around all that. A `UserError` tells what else the schema says."""
        self._edges: list[tuple[frozenset[int], int]] = [(frozenset(), 0)]  # of each node one, by some bytes
        self._free: list[list[int]] = [[]]  # and where it leads without a byte; node 0 is the end
        self._defs: dict[str, Any] = {}
        texts = [self._either(0) for _ in before.encode()] if within_text else [0]
        end = self._text(after, texts[0])
        value = self._value(schema, self._either(end, self._text("\n", end)) if after else end, ())
        value = self._either(value, self._text("\n", value)) if before else value
        self.start = self._closed(
            [self._until(before.encode(), texts, value) if within_text else self._text(before, value)]
        )
        self._pieces, self._masks, self._steps = tokenizer.token_bytes, dict[State, np.ndarray](), dict[Any, State]()

    def after(self, state: State, token: int) -> State:
        """Where a token leads."""
        return functools.reduce(self._step, self._pieces[token], state)

    def complete(self, state: State) -> bool:
        """Whether the value has ended, and nothing can follow."""
        return not any(self._edges[node][0] for node in state)

    def allowed(self, state: State, size: int, stop_tokens: Sequence[int]) -> np.ndarray:
        """Which of `size` tokens may come next, bool [size]; a stop token where the value may end."""
        if state not in self._masks:
            mask, left = np.zeros(size, bool), [(_trie(self._pieces), state)]
            while left:
                level, here = left.pop()
                for byte, (tokens, longer) in level.items():
                    if there := self._step(here, byte):
                        mask[tokens] = True
                        left.append((longer, there))
            mask[list(stop_tokens)] = 0 in state
            self._masks[state] = mask
        return self._masks[state]

    def _step(self, state: State, byte: int) -> State:
        if (state, byte) not in self._steps:
            edges = (self._edges[node] for node in state)
            self._steps[state, byte] = self._closed(to for accepted, to in edges if byte in accepted)
        return self._steps[state, byte]

    def _closed(self, nodes: Iterable[int]) -> State:
        found, left = set[int](), list(nodes)
        while left:
            if (node := left.pop()) not in found:
                found.add(node)
                left += self._free[node]
        return frozenset(found)

    def _either(self, *to: int) -> int:
        self._edges.append((frozenset(), 0))
        self._free.append([*to])
        return len(self._free) - 1

    def _bytes(self, sets: Sequence[Iterable[int]], then: int) -> int:
        for accepted in reversed(sets):
            self._edges.append((frozenset(accepted), then))
            self._free.append([])
            then = len(self._free) - 1
        return then

    def _text(self, text: str, then: int) -> int:
        return self._bytes([[byte] for byte in text.encode()], then)

    def _until(self, mark: bytes, texts: Sequence[int], then: int) -> int:
        """Text up to a mark; in node n of `texts` its first n bytes have just come (Knuth, Morris and Pratt 1977)."""
        for come, node in enumerate(texts):
            for byte in {*mark}:
                text = mark[:come] + bytes([byte])
                longest = next(n for n in range(come + 1, -1, -1) if text.endswith(mark[:n]))
                self._free[node].append(self._bytes([[byte]], then if longest == len(mark) else texts[longest]))
            self._free[node].append(self._bytes([{*range(256)} - {*mark}], texts[0]))
        return texts[0]

    def _loop(self, then: int, *bodies: Sequence[Iterable[int]]) -> int:
        """Any number of any of these."""
        loop = self._either(then)
        self._free[loop] += [self._bytes(body, loop) for body in bodies]
        return loop

    def _mark(self, mark: str, then: int) -> int:
        return self._text(mark, self._either(then, self._text(" ", then)))

    def _string(self, then: int) -> int:
        return self._text('"', self._loop(self._text('"', then), *_CHARACTERS))

    def _number(self, then: int) -> int:
        power = self._bytes([_DIGIT], self._either(then, self._bytes([_DIGIT], then)))
        exponent = self._either(then, self._bytes([b"eE"], self._either(power, self._bytes([b"+-"], power))))
        return self._whole(self._either(exponent, self._bytes([b".", _DIGIT], self._loop(exponent, [_DIGIT]))))

    def _whole(self, then: int) -> int:
        digits = self._either(self._text("0", then), self._bytes([b"123456789"], self._loop(then, [_DIGIT])))
        return self._either(digits, self._text("-", digits))

    def _many(self, marks: str, item: Callable[[int], int], then: int) -> int:
        loop = self._either(end := self._text(marks[1], then))
        first = item(loop)
        self._free[loop].append(self._mark(",", first))
        return self._text(marks[0], self._either(end, first))

    def _value(self, schema: Any, then: int, seen: tuple[str, ...]) -> int:
        """A value of a schema; `seen` are the definitions that it is within."""
        schema = _ANYTHING if schema is True or schema == {} else schema
        if not isinstance(schema, dict):
            raise UserError(f"schema: {schema!r} is no JSON schema; expected an object")
        for name in schema.keys() - {*_READ, *_IDLE}:
            raise unknown_name("schema", name, _READ)
        self._defs |= schema.get("$defs", {})
        if "$ref" in schema:
            if (name := schema["$ref"].removeprefix("#/$defs/")) not in self._defs or name in seen:
                raise UserError(f"schema: $ref={schema['$ref']!r}: accepted: one of $defs that is not within itself")
            return self._value(self._defs[name], then, (*seen, name))
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            return self._either(*(self._text(json.dumps(value, ensure_ascii=False), then) for value in values))
        kind = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else [])
        if "anyOf" in schema or isinstance(kind, list):
            several = schema.get("anyOf") or [schema | {"type": each} for each in kind] or [{}]
            return self._either(*(self._value(each, then, seen) for each in several))
        make: dict[str, Callable[[], int]] = {
            **{"string": lambda: self._string(then), "number": lambda: self._number(then)},
            **{"integer": lambda: self._whole(then), "null": lambda: self._text("null", then)},
            "boolean": lambda: self._either(self._text("true", then), self._text("false", then)),
            "array": lambda: self._many("[]", lambda to: self._value(schema.get("items", {}), to, seen), then),
            "object": lambda: self._object(schema, then, seen),
        }
        if kind not in make:
            raise unknown_name("schema: type", str(kind), make)
        return make[kind]()

    def _object(self, schema: dict[str, Any], then: int, seen: tuple[str, ...]) -> int:
        if "properties" not in schema:
            of = schema.get("additionalProperties") or {}
            return self._many("{}", lambda to: self._string(self._mark(":", self._value(of, to, seen))), then)
        first = later = self._text("}", then)  # what follows if no member has come, or one
        for name, each in reversed(schema["properties"].items()):
            optional = name not in schema.get("required", ())
            key = json.dumps(name, ensure_ascii=False)
            member = self._text(key, self._mark(":", self._value(each, later, seen)))
            first = self._either(member, *[first] * optional)
            later = self._either(self._mark(",", member), *[later] * optional)
        return self._text("{", first)


@functools.lru_cache(maxsize=4)
def _trie(pieces: tuple[bytes, ...]) -> dict[int, Any]:
    """{byte: (tokens that end with it, {next byte: ...})}."""
    root: dict[int, Any] = {}
    for token, piece in enumerate(pieces):
        level, tokens = root, list[int]()
        for byte in piece:
            tokens, level = level.setdefault(byte, ([], {}))
        tokens.append(token)
    return root
