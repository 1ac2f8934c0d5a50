# SPDX-License-Identifier: Apache-2.0
"""What accelerators can do at most, by their vendors' documents, and what they draw. Dense rates, without sparsity.

Nobody publishes the power of a TPU after v4. The figures here follow from three statements of Google's: a pod of 9,216
Ironwood chips takes about 10 MW (Hot Chips 2025), which is 1,085 W a chip with all around it; Ironwood does twice the
peak FLOPs a watt of Trillium (April 2025); and Trillium 1.67 times those of v5e (May 2024). v5p is taken to do as many
as v5e. They are assumptions, and said to be wherever they are used.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5x_like.accounting.ceiling import matmul_ceiling

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      kinds: regular expression that JAX's `device_kind` matches as a whole. A name that is not known for certain (a
        slice of a GPU, say) matches none: no figure is better than a wrong one.
      peaks: {dtype: FLOP/s}. "f32" is what JAX's default precision does with float32 operands: TF32 on a GPU, one
        bfloat16 pass on a TPU.
      memory: bytes.
      memory_bandwidth: bytes a second.
      interconnect: bytes a second to other chips of a slice or node, all links, both directions.
      source: document of the figures.
      torus: dimensions of the torus or mesh that links the chips of a slice, two links for each; 0 for chips that a
        switch joins.
      domain: chips that a switch joins at the rate of `interconnect`; 0 for a torus, whose slice is that.
      host_chips: chips of one host, in slices of several.
      network: bytes a second and chip to other slices or nodes, one direction.
      power: watts of a chip while it trains.
      power_source: where that is from.
      devices: JAX devices on a chip: 2 where the two cores of a TPU are separate devices.
    """

    name: str
    kinds: str
    peaks: dict[str, float]
    memory: float
    memory_bandwidth: float
    interconnect: float
    source: str
    torus: int
    domain: int
    host_chips: int
    network: float
    power: float
    power_source: str
    devices: int = 1

    @property
    def link(self) -> float:
        """Bytes a second of one link of the torus in one direction; of all of a chip's, where a switch joins chips."""
        return self.interconnect / 2 / (2 * self.torus or 1)


def _tpu(
    name: str,
    kinds: str,
    peaks: dict[str, float],
    memory: float,
    bandwidth: float,
    links: float,
    torus: int,
    network: float,
    power: float,
    page: str,
    power_source: str = "an assumption: no figure is published, see accounting/hardware.py",
    devices: int = 1,
) -> Chip:
    """A TPU, in TFLOP/s, GB, GB/s and W. Its float32 rate is its bfloat16 rate; no document gives one for float16.

    Four chips share a host wherever a slice has several.
    """
    rates = {dtype: rate * TERA for dtype, rate in {"f32": peaks["bf16"], **peaks}.items()}
    source = f"https://cloud.google.com/tpu/docs/{page}"
    sizes = (memory * GIGA, bandwidth * GIGA, links * GIGA)
    return Chip(name, kinds, rates, *sizes, source, torus, 0, 4, network * GIGA, power, power_source, devices)


def _gpu(
    name: str,
    kinds: str,
    dense: tuple[float, ...],
    memory: float,
    bandwidth: float,
    links: float,
    domain: int,
    network: float,
    power: float,
    source: str,
) -> Chip:
    """A GPU, in TFLOP/s (TF32, bfloat16 and float16, int8, and float8 where it has that), GB, GB/s and W (its limit).

    The network is one adapter for each GPU: 200 Gbit/s beside Ampere, 400 from Hopper on, as in NVIDIA's DGX.
    """
    tf32, half, *eight_bits = dense
    rates = {"f32": tf32, "bf16": half, "fp16": half, **dict(zip(("int8", "fp8"), eight_bits, strict=False))}
    peaks = {dtype: rate * TERA for dtype, rate in rates.items()}
    sizes = (memory * GIGA, bandwidth * GIGA, links * GIGA)
    power_source = "the data sheet's thermal design power"
    return Chip(name, kinds, peaks, *sizes, source, 0, domain, 8, network * GIGA, power, power_source)


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
    _tpu("TPU v4", "TPU v4", {"bf16": 275, "int8": 275}, 32, 1200, 600, 3, 6.25, 170, "v4", _V4_POWER),
    _tpu("TPU v5e", "TPU v5( lite|e)", {"bf16": 197, "int8": 393}, 16, 819, 400, 2, 3.125, 155, "v5e"),
    _tpu("TPU v5p", "TPU v5p?", {"bf16": 459, "int8": 918}, 95, 2765, 1200, 3, 6.25, 360, "v5p"),
    _tpu("TPU v6e", "TPU v6( lite|e)", {"bf16": 918, "int8": 1836}, 32, 1638, 800, 2, 12.5, 432, "v6e"),
    _tpu("TPU v7x", "TPU ?v?7x", {"bf16": 2307, "fp8": 4614}, 192, 7380, 1200, 3, 12.5, 1085, "tpu7x", devices=2),
    _gpu("A100 40GB", "(NVIDIA )?A100-(SXM4|PCIE)-40GB", _AMPERE, 40, 1555, 600, 8, 25, 400, _A100),
    _gpu("A100 80GB", "(NVIDIA )?A100-SXM4-80GB", _AMPERE, 80, 2039, 600, 8, 25, 400, _A100),
    _gpu("A100 80GB PCIe", "NVIDIA A100 80GB PCIe", _AMPERE, 80, 1935, 600, 2, 25, 300, _A100),
    _gpu("H100 SXM", "NVIDIA H100 80GB HBM3", _HOPPER, 80, 3350, 900, 8, 50, 700, _H100),
    _gpu("H100 PCIe", "NVIDIA H100 PCIe", _HOPPER_PCIE, 80, 2000, 600, 2, 50, 350, _HALF + "H100 PCIe, 2022"),
    _gpu("H100 NVL", "NVIDIA H100 NVL", _HOPPER_NVL, 94, 3900, 600, 2, 50, 400, _HALF + "H100 NVL, 2023"),
    _gpu("H200 SXM", "NVIDIA H200", _HOPPER, 141, 4800, 900, 8, 50, 700, _HALF + "H200 SXM, 2024"),
    _gpu("H200 NVL", "NVIDIA H200 NVL", _HOPPER_NVL, 141, 4800, 900, 4, 50, 600, _HALF + "H200 NVL, 2024"),
    _gpu("B200", "NVIDIA B200", _BLACKWELL, 180, 8000, 1800, 8, 50, 1000, _HALF + "HGX B200, a GPU, 2024"),
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

    `dtype` is that of the products' operands: "f32", "bf16", "fp16", "int8" or "fp8".
    """
    found = chip(device_kind)
    rate = None if found is None else found.peaks.get(dtype)
    return None if found is None or rate is None else rate / found.devices


def peak_of_mesh(devices: Any, precision: str, folder: Path) -> float | None:
    """Peak FLOP/s of all devices together, or None when it is not known.

    It is what model FLOPs utilisation (Chowdhery et al. 2022, appendix B) divides by:

        mfu = tokens a second * FLOPs a token / peak

    with the FLOPs of `flops.flops_per_token`: no recomputation, causal attention counted half.

    Emulated CPU devices share the cores of their process, so a process has one measured ceiling, in float32 whatever
    the precision, however many devices it shows.

    Args:
      devices: NumPy array of jax.Device, such as `mesh.devices`.
      precision: as `peak_flops` takes it.
      folder: where `ceiling.matmul_ceiling` keeps its figure.
    """
    first = devices.flat[0]
    if first.platform == "cpu":
        ceiling = matmul_ceiling(folder)
        return None if ceiling is None else ceiling * len({device.process_index for device in devices.flat})
    peak = peak_flops(first.device_kind, precision)
    return None if peak is None else peak * devices.size
