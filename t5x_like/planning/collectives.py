# SPDX-License-Identifier: Apache-2.0
"""The collectives of a compiled program: how many bytes each moves, over which mesh axes, and how often.

Bytes are those that one device sends in one run, by the ring algorithms (Thakur et al. 2005), with n devices in a group
and S bytes at a device before the collective:

    all-gather          (n - 1) S         the result is n S
    reduce-scatter      (n - 1) S / n     the result is S / n
    all-reduce          2 (n - 1) S / n   one of each
    all-to-all          (n - 1) S / n     a device keeps its own part
    collective-permute  S                 times the share of devices that send to another one

Every device receives as many. What a device sends to itself is not counted.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from t5x_like.planning import hlo
from t5x_like.planning.hlo import numbers

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
_OPCODES = {
    **{name + end: name for name in KINDS for end in ("", "-start")},
    "ragged-all-to-all": "all-to-all",
    "collective-broadcast": "collective-permute",
}


@dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: str  # one of `KINDS`
    axes: tuple[str, ...]  # mesh axes that it runs over, in the order of the mesh
    devices: int  # of a group
    bytes_once: float  # that a device sends in one run of it
    times: int  # how often it runs in one run of the program
    counted: bool  # False where `times` has one round of a loop whose number the program does not say
    where: str  # the operation of the model that it is for, as JAX names it
    downward: bool = False  # whether a permutation sends to lower places: a link carries one direction

    @property
    def bytes(self) -> float:
        """Bytes that a device sends in all."""
        return self.bytes_once * self.times


def collectives(program: hlo.Module, mesh: Mapping[str, int]) -> list[Collective]:
    """Lists the collectives of a compiled program, `hlo.parse(compiled.as_text())`.

    `mesh` has the sizes of the axes in their order: device i of the program is the i-th of the flattened mesh. Groups
    of devices in a form that is not known are a `ValueError`.
    """
    found = []
    for run in program.runs():
        kind = _OPCODES.get(run.instruction.opcode)
        if kind is None or _is_a_part(run):
            continue
        groups = _groups(run.instruction, math.prod(mesh.values()))
        devices = groups.shape[1]  # of a pair of places, two
        sent = _bytes(kind, run, groups)
        if devices > 1 and sent:
            op_name = re.search(r'op_name="([^"]*)"', run.instruction.attributes)
            where = op_name[1] if op_name else ""
            down = kind == "collective-permute" and bool(np.median(np.sign(groups[:, 1] - groups[:, 0])) < 0)
            found.append(Collective(kind, _axes(groups, mesh), devices, sent, run.times, run.counted, where, down))
    return found


def by_kind_and_axes(found: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], dict[str, float]]:
    """Adds collectives up: {(kind, axes): {"bytes", "times"}}, the largest first."""
    sums: dict[tuple[str, tuple[str, ...]], dict[str, float]] = {}
    for one in found:
        entry = sums.setdefault((one.kind, one.axes), {"bytes": 0.0, "times": 0})
        entry["bytes"] += one.bytes
        entry["times"] += one.times
    return dict(sorted(sums.items(), key=lambda item: -item[1]["bytes"]))


def on_links(found: Iterable[Collective]) -> list[tuple[str, tuple[str, ...], float]]:
    """(kind, axes, bytes) of each combination; of permutations the bytes in the direction that has more of them."""
    sums: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for one in found:
        sums.setdefault((one.kind, one.axes), [0.0, 0.0])[one.downward] += one.bytes
    return [(kind, axes, max(both)) for (kind, axes), both in sums.items()]


def _is_a_part(run: hlo.Run) -> bool:
    """Whether this is one of several fusions over which XLA:TPU spreads a collective: the first of them counts."""
    if "async_collective_fusion_config" not in run.instruction.attributes:
        return False
    return not any('"AsyncCollectiveStart"' in other.attributes for other in run.computation.instructions)


def _bytes(kind: str, run: hlo.Run, groups: np.ndarray) -> float:
    operands = [run.computation.by_name[name] for name in run.instruction.operands if name in run.computation.by_name]
    if run.instruction.opcode == "ragged-all-to-all":
        operands = operands[:1]  # the others are the output's place, offsets and sizes
    size = sum(sum(hlo.arrays(operand.shape)) for operand in operands)
    if kind == "collective-permute":
        pairs = groups[groups[:, 0] != groups[:, 1]]
        return size * len(pairs) / len(np.unique(groups))
    return ring_bytes(kind, size, groups.shape[1])


def ring_bytes(kind: str, size: float, devices: int) -> float:
    """Bytes that a device of a group sends, with `size` bytes at each before; of a permutation one that sends."""
    n = devices
    factors = {"all-gather": n - 1, "reduce-scatter": (n - 1) / n, "all-reduce": 2 * (n - 1) / n}
    factors |= {"all-to-all": (n - 1) / n, "collective-permute": 1}
    return size * factors[kind]


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())))  # [axis, group, member]
    differ = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(name for name, is_used in zip(mesh, differ, strict=True) if is_used)


def _groups(instruction: hlo.Instruction, devices: int) -> np.ndarray:
    """int [groups, members]: the devices of every group, or [pairs, 2] of a permutation."""
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return _listed(pairs[1])
    if listed := re.search(r"replica_groups=\{(\{.*?\})?\}", text):
        return _listed(listed[1]) if listed[1] else np.arange(devices)[None]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(*iota.groups())
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text):
        return _of_mesh(*mesh.groups())
    raise ValueError(f"devices of {instruction.name} are given in a form that is not known: {text[:200]}")


def _listed(text: str) -> np.ndarray:
    return np.array([numbers(group) for group in re.findall(r"\d[\d,\s]*", text)])


def _iota(shape: str, dims: str, order: str | None) -> np.ndarray:
    """`[4,2]<=[2,4]T(1,0)`: the numbers 0 to 7 as [2, 4], transposed, as [4, 2]."""
    sizes = numbers(dims)
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    return (devices.transpose(numbers(order)) if order else devices).reshape(numbers(shape))


def _of_mesh(axes: str, ids: str | None, grouped: str) -> np.ndarray:
    """`mesh['a'=2,'b'=8] {'b':(2)4}`: groups along b's last 4 of 8; `(2)4` cuts b into 2 x 4 x what is left."""
    names = dict(re.findall(r"'?([\w.\-]+)'?=(\d+)", axes))
    sizes = [int(size) for size in names.values()]
    devices = np.arange(math.prod(sizes))
    if ids:
        iota = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids)
        devices = _iota(str(devices.size), iota.group(1), iota.group(2)) if iota else np.array(numbers(ids))
    chosen = [
        (name, int(before or 1), int(size or names[name]))
        for name, before, size in re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", grouped)
    ]
    shape: list[int] = []
    members: dict[tuple[str, int], int] = {}  # the place in `shape` of every part of an axis that is grouped
    for name, size in zip(names, sizes, strict=True):
        left = size
        for _, before, part in sorted((entry for entry in chosen if entry[0] == name), key=lambda entry: entry[1]):
            gap = before // (size // left)
            shape += [gap, part]
            members[name, before] = len(shape) - 1
            left //= gap * part
        shape.append(left)
    inside = [members[name, before] for name, before, _ in chosen]
    outside = [place for place in range(len(shape)) if place not in inside]
    group = math.prod(shape[place] for place in inside)
    return devices.reshape(shape).transpose(outside + inside).reshape(-1, group)
