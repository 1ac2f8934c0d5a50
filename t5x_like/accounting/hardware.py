# SPDX-License-Identifier: Apache-2.0
"""What accelerators can do at most, by their vendors' documents, and what they draw. Dense rates, without sparsity.

Nobody publishes the power of a TPU after v4. The figures here follow from three statements of Google's: a pod of 9,216
Ironwood chips takes about 10 MW (Hot Chips 2025), which is 1,085 W a chip with all around it; Ironwood does twice the
peak FLOPs a watt of Trillium (April 2025); and Trillium 1.67 times those of v5e (May 2024). v5p is taken to do as many
as v5e. They are assumptions, and said to be wherever they are used.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5x_like.accounting.ceiling import matmul_ceiling

TERA, GIGA = 1e12, 1e9
# Watts of hosts and network for every watt of the chips: an assumption. Of the 10.2 kW that an NVIDIA DGX H100 takes at
# most, .8 for every watt of its GPUs' 5.6 are others'; TPU hosts have fewer parts beside their chips.
HOST_POWER = 0.3
PUE = 1.1  # power usage effectiveness, what the building draws over what the machines do; Google's mean of 2024 is 1.09
GRID = 0.47  # kg CO2e for a kWh: the world's mean of 2024 (Ember, Global Electricity Review 2025)
CORE_POWER = 4.4  # watts of a busy core: 280 W thermal design power of an AMD EPYC 7763 over its 64 cores (data sheet)
_Giga = tuple[float, float, float, float]  # GB of memory, GB/s of memory, links and network


@dataclass(frozen=True)
class Chip:
    """One chip."""

    name: str
    kinds: str  # regular expression that JAX's `device_kind` matches as a whole; of a name that is not known, none
    peaks: dict[str, float]  # {dtype: FLOP/s}; "f32": JAX's default precision, TF32 or one bfloat16 pass on a TPU
    memory: float  # bytes
    memory_bandwidth: float  # bytes a second
    interconnect: float  # bytes a second to other chips of a slice or node, all links, both directions
    source: str  # document of the figures
    torus: int  # dimensions of the torus or mesh of a slice, two links for each; 0 for chips that a switch joins
    domain: int  # chips that a switch joins at the rate of `interconnect`; 0 for a torus, whose slice is that
    host_chips: int  # chips of one host, in slices of several
    network: float  # bytes a second and chip to other slices or nodes, one direction
    power: float  # watts of a chip while it trains
    power_source: str  # where that is from
    devices: int = 1  # JAX devices on a chip: 2 where the two cores of a TPU are separate devices

    @property
    def link(self) -> float:
        """Bytes a second of one link of the torus in one direction; of all of a chip's, where a switch joins chips."""
        return self.interconnect / 2 / (2 * self.torus or 1)


def _chip(name: str, kinds: str, rates: dict[str, float], giga: _Giga, **more: Any) -> Chip:
    memory, bandwidth, links, network = (size * GIGA for size in giga)
    peaks = {dtype: rate * TERA for dtype, rate in rates.items()}
    return Chip(name, kinds, peaks, memory, bandwidth, links, network=network, **more)


def _tpu(
    name: str, kinds: str, rates: dict[str, float], giga: _Giga, torus: int, power: float, page: str, **more: Any
) -> Chip:
    """A TPU, whose float32 rate is its bfloat16 rate; no document gives one for float16. Four chips share a host."""
    source = f"https://cloud.google.com/tpu/docs/{page}"
    given = {"power_source": "an assumption: no figure is published, see accounting/hardware.py", **more}
    links: dict[str, Any] = {"torus": torus, "domain": 0, "host_chips": 4}
    return _chip(name, kinds, {"f32": rates["bf16"], **rates}, giga, source=source, power=power, **links, **given)


def _gpu(name: str, kinds: str, dense: tuple[float, ...], giga: _Giga, domain: int, power: float, source: str) -> Chip:
    """A GPU, with its rates for TF32, bfloat16 and float16, int8, and float8 where it has that, and W of its limit.
    The network is one adapter for each GPU: 200 Gbit/s beside Ampere, 400 from Hopper on, as in NVIDIA's DGX."""
    tf32, half, *eight_bits = dense
    rates = {"f32": tf32, "bf16": half, "fp16": half, **dict(zip(("int8", "fp8"), eight_bits, strict=False))}
    limit: dict[str, Any] = {"power": power, "power_source": "the data sheet's thermal design power"}
    return _chip(name, kinds, rates, giga, source=source, torus=0, domain=domain, host_chips=8, **limit)


_AMPERE = (156, 312, 624)  # SXM and PCIe alike
_HOPPER = (494.7, 989.4, 1978.9, 1978.9)
_HOPPER_PCIE = (378, 756.5, 1513, 1513)
_HOPPER_NVL = (417.5, 835.5, 1670.5, 1670.5)
_BLACKWELL = (1125, 2250, 4500, 4500)

_A100 = "NVIDIA A100 data sheet, 2021"
_H100 = "NVIDIA H100 architecture white paper v1.04 (dense rates), memory from the data sheet, 2023"
_HALF = "NVIDIA data sheet; it states rates with sparsity, halved here: "

_V4_POWER = "the mean that Google measured, https://cloud.google.com/tpu/docs/v4"

CHIPS = (
    _tpu("TPU v4", "TPU v4", {"bf16": 275, "int8": 275}, (32, 1200, 600, 6.25), 3, 170, "v4", power_source=_V4_POWER),
    _tpu("TPU v5e", "TPU v5( lite|e)", {"bf16": 197, "int8": 393}, (16, 819, 400, 3.125), 2, 155, "v5e"),
    _tpu("TPU v5p", "TPU v5p?", {"bf16": 459, "int8": 918}, (95, 2765, 1200, 6.25), 3, 360, "v5p"),
    _tpu("TPU v6e", "TPU v6( lite|e)", {"bf16": 918, "int8": 1836}, (32, 1638, 800, 12.5), 2, 432, "v6e"),
    _tpu("TPU v7x", "TPU ?v?7x", {"bf16": 2307, "fp8": 4614}, (192, 7380, 1200, 12.5), 3, 1085, "tpu7x", devices=2),
    _gpu("A100 40GB", "(NVIDIA )?A100-(SXM4|PCIE)-40GB", _AMPERE, (40, 1555, 600, 25), 8, 400, _A100),
    _gpu("A100 80GB", "(NVIDIA )?A100-SXM4-80GB", _AMPERE, (80, 2039, 600, 25), 8, 400, _A100),
    _gpu("A100 80GB PCIe", "NVIDIA A100 80GB PCIe", _AMPERE, (80, 1935, 600, 25), 2, 300, _A100),
    _gpu("H100 SXM", "NVIDIA H100 80GB HBM3", _HOPPER, (80, 3350, 900, 50), 8, 700, _H100),
    _gpu("H100 PCIe", "NVIDIA H100 PCIe", _HOPPER_PCIE, (80, 2000, 600, 50), 2, 350, _HALF + "H100 PCIe, 2022"),
    _gpu("H100 NVL", "NVIDIA H100 NVL", _HOPPER_NVL, (94, 3900, 600, 50), 2, 400, _HALF + "H100 NVL, 2023"),
    _gpu("H200 SXM", "NVIDIA H200", _HOPPER, (141, 4800, 900, 50), 8, 700, _HALF + "H200 SXM, 2024"),
    _gpu("H200 NVL", "NVIDIA H200 NVL", _HOPPER_NVL, (141, 4800, 900, 50), 4, 600, _HALF + "H200 NVL, 2024"),
    _gpu("B200", "NVIDIA B200", _BLACKWELL, (180, 8000, 1800, 50), 8, 1000, _HALF + "HGX B200, a GPU, 2024"),
)


def chip(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls `device_kind`, or None when the table has none."""
    return next((chip for chip in CHIPS if re.fullmatch(chip.kinds, device_kind)), None)


def memory_of(device_kind: str) -> float | None:
    """Bytes of memory of what JAX calls one device, or None when the table has no such chip."""
    found = chip(device_kind)
    return None if found is None else found.memory / found.devices


def peak_flops(device_kind: str, dtype: str = "bf16") -> float | None:
    """Returns the peak FLOP/s of one JAX device, or None when it is not known (a CPU, say).
    `dtype` is that of the products' operands: "f32", "bf16", "fp16", "int8" or "fp8"."""
    found = chip(device_kind)
    return found.peaks[dtype] / found.devices if found and dtype in found.peaks else None


def peak_of_mesh(devices: Any, precision: str, folder: Path) -> float | None:
    """Peak FLOP/s of all devices, a NumPy array of jax.Device, together, or None when it is not known.

    Model FLOPs utilisation (Chowdhery et al. 2022, appendix B) is tokens a second times `flops.flops_per_token`, which
    has no recomputation and counts causal attention half, over this peak.

    Emulated CPU devices share the cores of their process, so a process has one measured ceiling, in float32 whatever
    the precision (as `peak_flops` takes it), kept in `folder` by `ceiling.matmul_ceiling`.
    """
    first = devices.flat[0]
    if first.platform == "cpu":
        ceiling = matmul_ceiling(folder)
        return None if ceiling is None else ceiling * len({device.process_index for device in devices.flat})
    peak = peak_flops(first.device_kind, precision)
    return None if peak is None else peak * devices.size


def modelled_power(devices: Any) -> tuple[float, str] | tuple[None, str]:
    """Watts of a mesh's devices, a NumPy array, with all around them, and the model in words; None of a chip that the
    table does not have. Emulated CPU devices share the cores of a process."""
    first = devices.flat[0]
    if first.platform == "cpu":
        processes = len({device.process_index for device in devices.flat})
        cores = min(devices.size, len(os.sched_getaffinity(0))) if processes > 1 else len(os.sched_getaffinity(0))
        number, watts, what = processes * cores, CORE_POWER, "CPU core"
    elif (known := chip(first.device_kind)) is not None:
        number, watts, what = devices.size / known.devices, known.power, known.name
    else:
        return None, f"no model: accounting/hardware.py has no {first.device_kind!r}"
    words = f"model: {number:g} x {what} at {watts:g} W, {HOST_POWER:.0%} more for hosts and network, PUE {PUE:g}"
    return number * watts * (1 + HOST_POWER) * PUE, words
