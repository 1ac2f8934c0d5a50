# SPDX-License-Identifier: Apache-2.0
"""How fast a step can be at most, and what a number of tokens then takes: time, energy, CO2.

Three times, each with what it takes alone (Williams et al. 2009, with the interconnect as a third roof):

    compute        FLOPs executed / peak, a pipeline's bubble included
    memory         bytes read and written / bandwidth of the chip's memory
    interconnect   bytes sent over each combination of mesh axes / what the links they lie on carry, added up

A step takes at least the longest of them, which it does when all three overlap without a gap. Their sum is what it
takes when nothing overlaps. Neither is a forecast: kernels reach less than the peak.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from t5x_like.accounting.hardware import GRID, HOST_POWER, PUE
from t5x_like.errors import UserError
from t5x_like.parallel.mesh import AXES, arranged
from t5x_like.planning.topology import Slice

DAY, HOUR = 86400.0, 3600.0
_KINDS = {"TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite", "TPU v7x": "TPU7x"}  # what JAX calls them


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says. Every field is a flag of scripts/plan.py and is printed with the plan."""

    efficiency: float = 1.0  # share of the bound that a run reaches; 1 keeps the bound
    uptime: float = 1.0  # share of the time in which steps are taken, not restarts, checkpoints and evaluation
    chip_power: float | None = None  # watts of a chip in training; None takes the table's (accounting/hardware.py)
    host_power: float = HOST_POWER  # watts of hosts and network for every watt of the chips (accounting/hardware.py)
    pue: float = PUE  # watts of the building for every watt of those
    grid: float = GRID  # kg CO2e for a kWh

    def __post_init__(self) -> None:
        for name in ("efficiency", "uptime"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"--{name}={getattr(self, name)}: expected a share above 0 and at most 1")
        for name, least in (("chip_power", 0.0), ("host_power", 0.0), ("pue", 1.0), ("grid", 0.0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"--{name}={value}: expected a number from {least:g} on")


@dataclass(frozen=True)
class Roofline:
    """The three times of a step, in seconds, and what follows."""

    compute: float
    memory: float
    interconnect_by_axes: dict[str, float]  # {"fsdp x tensor": seconds}
    model_flops: float  # of a step over all chips; recomputation is not among them
    peak: float  # FLOP/s of all chips
    tokens: int  # in a step

    @property
    def interconnect(self) -> float:
        return sum(self.interconnect_by_axes.values())

    @property
    def bound_by(self) -> str:
        return max(("compute", "memory", "interconnect"), key=lambda name: float(getattr(self, name)))

    @property
    def step_time(self) -> float:
        """Seconds, with everything overlapped: the least."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def step_time_without_overlap(self) -> float:
        return self.compute + self.memory + self.interconnect

    @property
    def mfu(self) -> float:
        """The model FLOPs utilisation (Chowdhery et al. 2022, appendix B) that cannot be exceeded."""
        return self.model_flops / (self.peak * self.step_time)

    @property
    def tokens_per_day(self) -> float:
        return self.tokens / self.step_time * DAY


@dataclass(frozen=True)
class Cost:
    """What a number of tokens takes."""

    tokens: float
    days: float  # of wall time
    chip_hours: float  # of all chips together
    energy_kwh: float  # the building's share included
    co2_tonnes: float  # of CO2 equivalent; making the machines is not in it


def roofline(
    slice_: Slice,
    flops: Mapping[str, float],
    memory_bytes: float,
    moved: Iterable[tuple[str, tuple[str, ...], float]],
    links: "Links",
    *,
    bubble: float,
    tokens: int,
    dtype: str,
) -> Roofline:
    """The three roofs of a step.

    Args:
      flops: "model" and "executed", over all devices.
      memory_bytes: that one device reads and writes.
      moved: (kind of collective, mesh axes, bytes that a device sends).
      bubble: share of the ticks of a pipeline in which a stage has nothing of its own to do.
      dtype: of the products, "bf16" or "f32"; a `UserError` where the chip has none.
    """
    rate = slice_.chip.peaks.get(dtype)
    if rate is None:
        accepted = ", ".join(slice_.chip.peaks)
        raise UserError(f"precision: {slice_.chip.name} has no {dtype} products; accepted: {accepted}")
    peak = rate * slice_.chips
    by_axes: dict[str, float] = {}
    for kind, axes, size in moved:
        name = " x ".join(axes)
        by_axes[name] = by_axes.get(name, 0.0) + size / links.bandwidth(kind, axes)
    return Roofline(
        compute=flops["executed"] / peak / (1 - bubble),
        memory=memory_bytes * slice_.chip.devices / slice_.chip.memory_bandwidth,
        interconnect_by_axes=dict(sorted(by_axes.items(), key=lambda item: -item[1])),
        model_flops=flops["model"],
        peak=peak,
        tokens=tokens,
    )


def cost(roof: Roofline, slice_: Slice, tokens: float, assumed: Assumptions) -> Cost:
    """Time, energy and CO2 of training on so many tokens."""
    seconds = tokens / roof.tokens * roof.step_time / (assumed.efficiency * assumed.uptime)
    power = slice_.chip.power if assumed.chip_power is None else assumed.chip_power
    watts = slice_.chips * power * (1 + assumed.host_power) * assumed.pue
    energy = watts * seconds / HOUR / 1000
    return Cost(tokens, seconds / DAY, slice_.chips * seconds / HOUR, energy, energy * assumed.grid / 1000)


class Links:
    """Which links of a slice a combination of mesh axes can use, from where the mesh's devices are.
    `devices` is [pipe, data, fsdp, expert, seq, tensor], with `coords` where the slice is a torus."""

    def __init__(self, slice_: Slice, devices: np.ndarray):
        self.slice = slice_
        self.shape = devices.shape
        if slice_.chip.torus:
            places = np.array([device.coords for device in devices.flat])
            self.places = places.reshape(*devices.shape, -1)[..., : len(slice_.dims)]

    def bandwidth(self, kind: str, axes: Sequence[str]) -> float:
        """Bytes a second that a device can send to the others along these axes.

        In a torus the axes lie along some of its dimensions; each gives two links where the group takes the whole of a
        ring, one otherwise, and a permutation uses one link alone. Behind a switch it is the chip's own rate, or the
        network's where the group does not fit one domain.
        """
        chip = self.slice.chip
        if not chip.torus:
            at = [AXES.index(axis) for axis in axes]
            reach = sum((self.shape[i] - 1) * math.prod(self.shape[i + 1 :]) for i in at)
            return chip.link if reach < chip.domain else chip.network
        links = 1 if kind == "collective-permute" else max(1, self._links(axes))
        return links * chip.link / chip.devices

    def _links(self, axes: Sequence[str]) -> int:
        group = tuple(slice(None) if name in axes else 0 for name in AXES)
        places = self.places[group].reshape(-1, self.places.shape[-1])
        found = 0
        for size, wraps, along in zip(self.slice.dims, self.slice.wraps, places.T, strict=True):
            extent = len(np.unique(along))
            found += 0 if extent == 1 else 2 if wraps and extent == size and size > 2 else 1
        return found


def places_of(slice_: Slice, sizes: Mapping[str, int]) -> np.ndarray:
    """Stand-ins for a slice's devices, arranged as JAX would the real ones; a mesh of another size is a `UserError`."""
    shape = tuple(sizes[name] for name in AXES)
    described = ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "all axes 1"
    if math.prod(shape) != slice_.devices:
        raise UserError(
            f"mesh: {described} is {math.prod(shape)} devices, {slice_.name} has {slice_.devices}; accepted: sizes "
            f"whose product is {slice_.devices}, or -1 for one of them"
        )
    if not slice_.chip.torus:
        return np.arange(math.prod(shape)).reshape(shape)
    chip, dims = slice_.chip, slice_.dims + (1,) * (3 - len(slice_.dims))
    shared: dict[str, Any] = {"platform": "tpu", "process_index": 0, "slice_index": 0}
    shared["device_kind"] = _KINDS.get(chip.name, chip.name)
    found: list[Any] = []
    for i in range(slice_.devices):
        coords = tuple(map(int, np.unravel_index(i // chip.devices, dims, order="F")))
        found.append(SimpleNamespace(id=i, coords=coords, core_on_chip=i % chip.devices, **shared))
    return arranged(shape, found)


def mesh_sizes(slice_: Slice, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of a mesh on a slice; an axis of -1 takes what the others leave."""
    fixed = math.prod(size for size in sizes.values() if size != -1)
    return {name: max(1, slice_.devices // fixed) if size == -1 else size for name, size in sizes.items()}
