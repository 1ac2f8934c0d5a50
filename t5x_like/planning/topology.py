# SPDX-License-Identifier: Apache-2.0
"""Slices of accelerators by name, "v5p:4x4x4" or "h100:64": what they are made of, and the devices to compile for.

The devices come from libtpu (the `[tpu]` extra), which has the real compiler and needs no TPU. Without it there is
still all that arithmetic wants to know.
"""

import importlib.util
import math
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from t5x_like.accounting.hardware import CHIPS, Chip
from t5x_like.config import RunConfig
from t5x_like.errors import UserError, nearest

_NAMES = {
    "v4": "TPU v4",
    "v5e": "TPU v5e",
    "v5p": "TPU v5p",
    "v6e": "TPU v6e",
    "v7x": "TPU v7x",
    "a100": "A100 80GB",
    "h100": "H100 SXM",
    "h200": "H200 SXM",
    "b200": "B200",
}
_ALSO = {"tpu7x": "v7x", "ironwood": "v7x", "trillium": "v6e", "v5litepod": "v5e", "v5lite": "v5e"}
_LIBTPU = {"v7x": "tpu7x"}  # what libtpu calls it, where that differs
# Without these libtpu asks a server that only Cloud TPU machines have, for minutes, and prints what it did not find.
# Its lock is for the hardware, which is not touched.
_LIBTPU_ALONE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_MIN_LOG_LEVEL": "3"}
_LIBTPU_ALONE |= {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
# The shapes that Google's pages list, the largest last.
SLICES: dict[str, tuple[str, ...]] = {
    "v4": _CUBES,
    "v5e": _FLAT,
    "v5p": (*_CUBES, "16x16x24"),
    "v6e": _FLAT,
    "v7x": (*_CUBES, "16x16x24", "16x24x24"),
}
_CORES = {"v4": 2, "v5p": 2, "v7x": 2}  # that accelerator types such as "v5p-128" count


@dataclass(frozen=True)
class Slice:
    """Accelerators of one kind that a fast interconnect joins."""

    kind: str  # "v5p", "h100", ...
    chip: Chip
    dims: tuple[int, ...]  # chips in each dimension of the torus; one number for chips that a switch joins

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.dims))}"

    @property
    def chips(self) -> int:
        return math.prod(self.dims)

    @property
    def devices(self) -> int:
        """JAX devices: two for a chip whose cores are separate."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chip.host_chips)

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Whether each dimension closes to a ring: of three where all are multiples of 4, of two at a pod's full 16."""
        if self.chip.torus == 3:
            return (all(size % 4 == 0 for size in self.dims),) * 3
        return tuple(size == 16 for size in self.dims)


def slice_of(name: str) -> Slice:
    """Reads a slice's name.
    Raises UserError: an unknown kind of chip, or a shape that there is no slice of, with the nearest that there is."""
    found = re.fullmatch(r"([a-z0-9]+)[:=]([0-9x]+)", name.lower())
    if not found:
        raise UserError(f"--topology={name}: expected KIND:SHAPE such as v5p:4x4x4, v5e:4x4 or h100:64{_type(name)}")
    kind, shape = _ALSO.get(found[1], found[1]), found[2]
    if kind not in _NAMES:
        raise UserError(
            f"--topology={name}: chip {kind!r} is not known; accepted: {', '.join(_NAMES)}{nearest(kind, _NAMES)}"
        )
    chip = next(chip for chip in CHIPS if chip.name == _NAMES[kind])
    dims = tuple(int(size) for size in shape.split("x") if size)
    if "x".join(map(str, dims)) != shape or 0 in dims or (not chip.torus and len(dims) != 1):
        expected = "a number of chips" if not chip.torus else f"{chip.torus} sizes with x between them"
        raise UserError(f"--topology={name}: {shape!r} is no shape; expected {expected}")
    if chip.torus:
        _check(name, kind, chip, dims)
    return Slice(kind, chip, dims)


def _check(name: str, kind: str, chip: Chip, dims: tuple[int, ...]) -> None:
    shapes, chips = SLICES[kind], math.prod(dims)
    most = _count(shapes[-1])
    if len(dims) != chip.torus:
        reason = f"a slice has {chip.torus} dimensions"
    elif chips > most:
        reason = f"the largest slice has {most} chips"
    elif dims != (1, 1) and (dims[0] % 2 or dims[1] % 2):
        reason = "hosts have 2x2 chips"
    else:
        return
    near = min(shapes, key=lambda shape: abs(math.log(_count(shape) / chips)))
    accepted = ", ".join(f"{kind}:{shape}" for shape in shapes)
    raise UserError(f"--topology={name}: {reason}; accepted: {accepted}; the nearest is {kind}:{near}")


def _count(shape: str) -> int:
    return math.prod(int(size) for size in shape.split("x"))


def _type(name: str) -> str:
    """What an accelerator type such as "v5p-128" or "v5litepod-16" is as a topology."""
    found = re.fullmatch(r"([a-z0-9]+)-(\d+)", name.lower())
    kind = _ALSO.get(found[1], found[1]) if found else ""
    if not found or kind not in SLICES:
        return ""
    chips = int(found[2]) / _CORES.get(kind, 1)
    shapes = [shape for shape in SLICES[kind] if _count(shape) == chips]
    counted = "TensorCores, 2 a chip" if kind in _CORES else "chips"
    return f"; {name} counts {counted}: did you mean {kind}:{shapes[0]}?" if shapes else ""


def can_compile(slice_: Slice) -> str | None:
    """Why there is nothing to compile with for this slice, in a few words; None if there is."""
    if not slice_.chip.torus:
        return "only TPU slices can be compiled for without the hardware"
    if importlib.util.find_spec("libtpu") is None:
        return "libtpu is not installed (pip install 't5x_like[tpu]')"
    return None


def devices_of(slice_: Slice) -> list[Any]:
    """Returns the devices of a slice that is not there, for `jax.jit(...).lower(...).compile()`.
    Raises UserError: libtpu is missing or refuses the slice."""
    if obstacle := can_compile(slice_):
        raise UserError(f"--topology={slice_.name}: {obstacle}")
    for name, value in _LIBTPU_ALONE.items():
        os.environ.setdefault(name, value)
    from jax.errors import JaxRuntimeError
    from jax.experimental import topologies

    shape = "x".join(map(str, slice_.dims))
    more: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if slice_.chips == 1 else {}
    if slice_.kind == "v4":
        more["chip_config_name"] = "megacore"  # both cores of a chip as one device, as JAX has them on the hardware
    try:
        found = topologies.get_topology_desc(f"{_LIBTPU.get(slice_.kind, slice_.kind)}:{shape}", platform="tpu", **more)
    except (JaxRuntimeError, RuntimeError, ValueError) as error:
        raise UserError(f"--topology={slice_.name}: libtpu refuses it: {str(error).splitlines()[0]}") from None
    return list(found.devices)


def compile_for(config: RunConfig, slice_: Slice) -> Any:
    """`compile_step` for a slice, on another thread, so that a clock runs on a terminal and ctrl-C is heard.
    Raises UserError: see `compile_step` and `devices_of`."""
    from t5x_like.planning.lower import compile_step  # here: programs that only read flags need not wait for JAX

    compiling = ThreadPoolExecutor(1).submit(compile_step, config, devices_of(slice_))
    began = time.monotonic()
    try:
        while wait([compiling], 0.5).not_done:
            if sys.stderr.isatty():
                print(f"\rcompiling for {slice_.name}: {time.monotonic() - began:.0f} s ", end="", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr, flush=True)
        os._exit(130)  # the compiler cannot be stopped in any other way
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return compiling.result()
