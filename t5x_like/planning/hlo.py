# SPDX-License-Identifier: Apache-2.0
"""The instructions of a compiled XLA program, as `jax.stages.Compiled.as_text()` gives it, and how often each runs.

Only what counting needs is understood. XLA:CPU writes a loop's count beside it; XLA:TPU does not, so it is read off the
loop's condition.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|called_computations|async_wrapped)=(?:\{([^}]*)\}|%?([\w.\-]+))")
_BRANCHES = re.compile(r"\b(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# Bits of an element, where its name does not say so.
_BITS = {"pred": 8, "token": 0, "opaque": 0}


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str  # as text: "bf16[8,128]{1,0}", or several in parentheses
    operands: tuple[str, ...]  # names of instructions of the same computation
    arguments: str
    attributes: str  # the rest of the line
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """What an attribute such as `body=%name` gives: a name, or a number."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found and found[1]


@dataclass(frozen=True)
class Computation:
    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def root(self) -> Instruction:
        return next(instruction for instruction in self.instructions if instruction.is_root)


@dataclass(frozen=True)
class Run:
    """An instruction and how often it runs in one run of the program."""

    instruction: Instruction
    computation: Computation
    times: int
    counted: bool  # False where `times` has one round of a loop whose number is not in the program


@dataclass(frozen=True)
class Module:
    """A program: its computations by name, and which of them is entered first."""

    computations: dict[str, Computation]
    entry: str

    def runs(self) -> Iterator[Run]:
        """Every instruction, through all calls and loops. Of a conditional every branch is there."""
        yield from self._runs(self.computations[self.entry], 1, True)

    def _runs(self, computation: Computation, times: int, counted: bool) -> Iterator[Run]:
        for instruction in computation.instructions:
            yield Run(instruction, computation, times, counted)
            inner, known = times, counted
            if instruction.opcode == "while":
                rounds = self.trip_count(instruction, computation)
                inner, known = times * (1 if rounds is None else rounds), counted and rounds is not None
            for name in _called(instruction):
                if name in self.computations:
                    yield from self._runs(self.computations[name], inner, known)

    def trip_count(self, loop: Instruction, computation: Computation) -> int | None:
        """How often a `while` goes round; None when that is only known when the program runs."""
        if known := _KNOWN.search(loop.attributes):
            return int(known[1])
        condition, body = (self.computations.get(loop.attribute(name) or "") for name in ("condition", "body"))
        if condition is None or body is None or condition.root.opcode != "compare":
            return None
        sides = [_value(condition, name) for name in condition.root.operands]
        direction = condition.root.attribute("direction")
        if len(sides) != 2 or direction is None or not isinstance(sides[0], _Carried):
            return None
        step = _increment(body, sides[0].index)
        start, end = (_at_first(loop, computation, side) if isinstance(side, _Carried) else side for side in sides)
        if not (isinstance(start, int) and isinstance(end, int) and step):
            return None
        distance = end - start + (step // abs(step) if direction in ("LE", "GE") else 0)
        return max(0, ceil(distance / step))


@dataclass(frozen=True)
class _Carried:
    """An element of what a loop carries round."""

    index: int


def _at_first(loop: Instruction, computation: Computation, carried: _Carried) -> int | _Carried | None:
    """What enters a loop in the place of an element that it carries round."""
    value = _through_copies(computation, loop.operands[0])
    if value is None or value.opcode != "tuple" or carried.index >= len(value.operands):
        return None
    return _value(computation, value.operands[carried.index])


def _value(computation: Computation, name: str) -> int | _Carried | None:
    """A constant, or an element of the computation's parameter."""
    found = _through_copies(computation, name)
    if found is None:
        return None
    if found.opcode == "constant" and re.fullmatch(r"-?\d+", found.arguments):
        return int(found.arguments)
    if found.opcode == "get-tuple-element":
        source = computation.by_name.get(found.operands[0])
        index = found.attribute("index")
        if source is not None and source.opcode == "parameter" and index:
            return _Carried(int(index))
    return None


def _increment(body: Computation, index: int) -> int | None:
    """What a loop's body adds to the counter that it carries at `index`."""
    if body.root.opcode != "tuple":
        return None
    total, name = 0, body.root.operands[index]
    while True:  # an unrolled body adds more than once
        found = _through_copies(body, name)
        if found is None:
            return None
        if found.opcode != "add":
            return total if _value(body, name) == _Carried(index) else None
        values = {operand: _value(body, operand) for operand in found.operands}
        constants = [value for value in values.values() if isinstance(value, int)]
        if len(constants) != 1:
            return None
        total += constants[0]
        name = next((operand for operand, value in values.items() if not isinstance(value, int)), "")


def _through_copies(computation: Computation, name: str) -> Instruction | None:
    """The instruction of a name, or what it is a copy of."""
    found = computation.by_name.get(name)
    while found is not None and found.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        found = computation.by_name.get(found.operands[0])
    return found


def _called(instruction: Instruction) -> list[str]:
    """The computations that an instruction calls; not a loop's condition."""
    names = []
    for pattern in (_CALLS, _BRANCHES):
        for many, one in pattern.findall(instruction.attributes.split(", metadata=")[0]):
            names += re.findall(r"[\w.\-]+", many) if many else [one]
    return names


def parse(text: str) -> Module:
    """Reads the text of a compiled program. Raises ValueError: it has no entry computation."""
    computations: dict[str, Computation] = {}
    lines: list[Instruction] = []
    entry = name = None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif line == "}" and name is not None:
            computations[name] = Computation(name, tuple(lines))
            name = None
        elif name is not None and (found := _INSTRUCTION.match(line)):
            lines.append(_instruction(bool(found[1]), found[2], found[3]))
    if entry is None:
        raise ValueError("the text of no compiled program: it has no ENTRY")
    return Module(computations, entry)


def _instruction(is_root: bool, name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    arguments = rest[opening + 1 : closing]
    names = re.findall(r"%([\w.\-]+)", arguments) or [part.strip() for part in arguments.split(",") if part.strip()]
    return Instruction(name, rest[:opening], shape, tuple(names), arguments, rest[closing + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"no parenthesis closes: {text[start : start + 60]}")


def arrays(shape: str) -> list[float]:
    """Bytes of every array of a shape: "bf16[8,128]{1,0}" or "(f32[4], u32[])". Layouts are not read."""
    found = _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape))
    return [_BITS.get(kind, (numbers(kind) or [32])[0]) / 8 * prod(numbers(sizes)) for kind, sizes in found]


def numbers(text: str) -> list[int]:
    """The whole numbers in a text."""
    return [int(number) for number in re.findall(r"\d+", text)]


def product_flops(program: Module) -> float:
    """FLOPs of one device's matrix products in one run of the program, recomputation included; see `runs` for loops.

    XLA:CPU writes products as `dot`, XLA:TPU as convolutions, whose windows stand for further dimensions: one that
    slides over padding and meets a single element multiplies once, however large it is, so taps are counted one by one.
    What is in kernels (attention on TPU) is not seen.
    """
    total = 0.0
    for run in program.runs():
        one = run.instruction
        if one.opcode in ("dot", "convolution"):
            left, right = (_dims(run.computation.by_name[name].shape) for name in one.operands[:2])
            if one.opcode == "dot":
                contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
                depth = prod(left[i] for i in numbers(contracted[1] if contracted else ""))
                total += 2.0 * run.times * prod(_dims(one.shape)) * depth
            else:
                total += 2.0 * run.times * _convolution(one.attributes, left, right, _dims(one.shape))
    return total


def _convolution(attributes: str, left: list[int], right: list[int], out: list[int]) -> int:
    """Multiplications: rows x features in x features out x the taps that meet an element, in every window dimension."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    assert labels is not None, attributes
    named = zip(labels.groups(), (left, right, out), strict=True)
    of_left, of_right, of_out = (dict(zip(names, sizes, strict=True)) for names, sizes in named)
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window.group(1).split()) if window else {}
    taps = 1
    for i, size in enumerate(numbers(fields.get("size", ""))):
        stride, spread, gap = (
            numbers(fields[name])[i] if name in fields else 1 for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        before = int(fields["pad"].split("x")[i].split("_")[0]) if "pad" in fields else 0
        reach = (of_left[str(i)] - 1) * spread
        places = (place * stride + tap * gap - before for place in range(of_out[str(i)]) for tap in range(size))
        taps *= sum(0 <= place <= reach and place % spread == 0 for place in places)
    return of_out["b"] * of_out["f"] * of_right["i"] * taps


def _dims(shape: str) -> list[int]:
    found = re.match(r"[a-z]\w*\[([\d,]*)\]", shape)
    assert found is not None, shape
    return numbers(found.group(1))
