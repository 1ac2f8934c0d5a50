# SPDX-License-Identifier: Apache-2.0
"""Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): FLOPs the model needs over FLOPs that fit in.

    mfu = tokens a second * FLOPs a token / peak

The FLOPs are those of `flops.flops_per_token`: no recomputation, causal attention counted half.
"""

from pathlib import Path
from typing import Any

from t5x_like.accounting.ceiling import matmul_ceiling
from t5x_like.accounting.hardware import peak_flops


def peak_of_mesh(devices: Any, precision: str, folder: Path) -> float | None:
    """Peak FLOP/s of all devices together, or None when it is not known.

    Emulated CPU devices share the cores of their process, so a process has one measured ceiling, in float32 whatever
    the precision, however many devices it shows.

    Args:
      devices: NumPy array of jax.Device, such as `mesh.devices`.
      precision: of the operands, as `hardware.peak_flops` takes it.
      folder: where `ceiling.matmul_ceiling` keeps its figure.
    """
    first = devices.flat[0]
    if first.platform == "cpu":
        ceiling = matmul_ceiling(folder)
        return None if ceiling is None else ceiling * len({device.process_index for device in devices.flat})
    peak = peak_flops(first.device_kind, precision)
    return None if peak is None else peak * devices.size
