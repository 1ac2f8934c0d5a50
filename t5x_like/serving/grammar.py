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

State = frozenset[int]  # of nodes, closed under edges without a byte; the empty one is where nothing may come
_READ = "type properties required items enum const anyOf $ref $defs"
_IDLE = "title description default examples $schema $id additionalProperties strict"
_ANYTHING: Any = {"type": ["string", "number", "boolean", "null"]}
for _ in range(3):
    deeper = [{"type": "array", "items": _ANYTHING}, {"type": "object", "additionalProperties": _ANYTHING}]
    _ANYTHING = {"anyOf": [_ANYTHING.get("anyOf", [_ANYTHING])[0], *deeper]}
_HEX, _DIGITS, _TAIL = b"0123456789abcdefABCDEF", b"0123456789", range(0x80, 0xC0)
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
    """What a tokenizer's tokens may spell. Nodes are built from the end: every part is told what follows it.

    Attributes:
      start: where nothing has come yet.
    """

    def __init__(self, schema: Any, tokenizer: Tokenizer, before: str = "", after: str = "", free: bool = False):
        """`before` and `after` stand around the value; with `free` any text does, too, in which `before` begins one.

        Raises:
          UserError: a schema that says something else.
        """
        self._edges: list[tuple[frozenset[int], int]] = [(frozenset(), 0)]  # of each node one, by some bytes
        self._free: list[list[int]] = [[]]  # and where it leads without a byte; node 0 is the end
        self._defs: dict[str, Any] = {}
        end = self._node(0)
        first = self._until(before, self._value(schema, self._text(after, end), ()), end) if free else None
        self.start = self._closed([first or self._text(before, self._value(schema, self._text(after, 0), ()))])
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
            mask = self._masks[state] = np.zeros(size, bool)
            left = [(_trie(self._pieces), state)]
            while left:
                level, here = left.pop()
                for byte, (tokens, longer) in level.items():
                    if there := self._step(here, byte):
                        mask[tokens] = True
                        left.append((longer, there))
            mask[list(stop_tokens)] = 0 in state
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

    def _node(self, *free: int, accepted: Iterable[int] = (), to: int = 0) -> int:
        self._edges.append((frozenset(accepted), to))
        self._free.append(list(free))
        return len(self._free) - 1

    def _bytes(self, sets: Sequence[Iterable[int]], then: int) -> int:
        return functools.reduce(lambda to, accepted: self._node(accepted=accepted, to=to), reversed(sets), then)

    def _text(self, text: str, then: int) -> int:
        return self._bytes([[byte] for byte in text.encode()], then)

    def _loop(self, then: int, *bodies: Sequence[Iterable[int]]) -> int:
        """Any number of any of these."""
        loop = self._node(then)
        self._free[loop] += [self._bytes(body, loop) for body in bodies]
        return loop

    def _until(self, mark: str, then: int, text: int) -> int:
        """Any text, from the node `text` on; a mark whose first byte is not in it again leads to `then`."""
        first, *rest = mark.encode()
        begun = self._node()
        others = [self._node(accepted={*range(256)} - {first, byte}, to=text) for byte in rest]
        for byte, other in zip(reversed(rest), reversed(others), strict=True):
            then = self._node(0, self._node(accepted=[byte], to=then), self._node(accepted=[first], to=begun), other)
        self._free[begun].append(then)
        other = self._node(accepted={*range(256)} - {first}, to=text)
        self._free[text] += [self._node(accepted=[first], to=begun), other]
        return text

    def _mark(self, mark: str, then: int) -> int:
        return self._text(mark, self._node(then, self._text(" ", then)))

    def _string(self, then: int) -> int:
        return self._text('"', self._loop(self._text('"', then), *_CHARACTERS))

    def _number(self, then: int, whole: bool) -> int:
        end = then
        if not whole:
            power = self._bytes([_DIGITS], self._node(then, self._bytes([_DIGITS], then)))
            exponent = self._node(then, self._bytes([b"eE"], self._node(power, self._bytes([b"+-"], power))))
            end = self._node(exponent, self._bytes([b".", _DIGITS], self._loop(exponent, [_DIGITS])))
        digits = self._node(self._text("0", end), self._bytes([b"123456789"], self._loop(end, [_DIGITS])))
        return self._node(digits, self._text("-", digits))

    def _many(self, marks: str, item: Callable[[int], int], then: int) -> int:
        end = self._text(marks[1], then)
        loop = self._node(end)
        first = item(loop)
        self._free[loop].append(self._mark(",", first))
        return self._text(marks[0], self._node(end, first))

    def _value(self, schema: Any, then: int, seen: tuple[str, ...]) -> int:
        """A value of a schema; `seen` are the definitions that it is within."""
        if schema is True or schema == {}:
            schema = _ANYTHING
        if not isinstance(schema, dict):
            raise UserError(f"schema: {schema!r} is no JSON schema; expected an object")
        for name in schema.keys() - {*_READ.split(), *_IDLE.split()}:
            raise unknown_name("schema", name, _READ.split())
        self._defs |= schema.get("$defs", {})
        if "$ref" in schema:
            name = str(schema["$ref"]).removeprefix("#/$defs/")
            if name not in self._defs or name in seen:
                raise UserError(f"schema: $ref={schema['$ref']!r}: accepted: one of $defs that is not within itself")
            return self._value(self._defs[name], then, (*seen, name))
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            return self._node(*(self._text(json.dumps(value, ensure_ascii=False), then) for value in values))
        if "anyOf" in schema:
            return self._node(*(self._value(each, then, seen) for each in schema["anyOf"]))
        kind = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "any")
        if isinstance(kind, list):
            return self._node(*(self._value(schema | {"type": each}, then, seen) for each in kind))
        make: dict[str, Callable[[], int]] = {
            "string": lambda: self._string(then),
            "number": lambda: self._number(then, False),
            "integer": lambda: self._number(then, True),
            "boolean": lambda: self._node(self._text("true", then), self._text("false", then)),
            "null": lambda: self._text("null", then),
            "array": lambda: self._many("[]", lambda to: self._value(schema.get("items", {}), to, seen), then),
            "object": lambda: self._object(schema, then, seen),
            "any": lambda: self._value({}, then, seen),
        }
        if kind not in make:
            raise unknown_name("schema: type", str(kind), make)
        return make[kind]()

    def _object(self, schema: dict[str, Any], then: int, seen: tuple[str, ...]) -> int:
        if "properties" not in schema:
            values = schema.get("additionalProperties") or {}
            return self._many("{}", lambda to: self._string(self._mark(":", self._value(values, to, seen))), then)
        first = later = self._text("}", then)  # what follows if no member has come, or one
        for name, each in reversed(schema["properties"].items()):
            value = self._mark(":", self._value(each, later, seen))
            member = self._text(json.dumps(name, ensure_ascii=False), value)
            then_first, then_later = [member], [self._mark(",", member)]
            if name not in schema.get("required", ()):
                then_first, then_later = [member, first], [*then_later, later]
            first, later = self._node(*then_first), self._node(*then_later)
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
