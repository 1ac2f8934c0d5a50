# SPDX-License-Identifier: Apache-2.0
"""What training draws, modelled: watts of chips, hosts and building. What no data sheet says are assumptions."""

import os
from typing import Any

from t5x_like.accounting.hardware import chip

# Watts of hosts and network for every watt of the chips: an assumption. Of the 10.2 kW that an NVIDIA DGX H100 takes at
# most, .8 for every watt of its GPUs' 5.6 are others'; TPU hosts have fewer parts beside their chips.
HOST_POWER = 0.3
PUE = 1.1  # power usage effectiveness, what the building draws over what the machines do; Google's mean of 2024 is 1.09
GRID = 0.47  # kg CO2e for a kWh: the world's mean of 2024 (Ember, Global Electricity Review 2025)
CORE_POWER = 4.4  # watts of a busy core: 280 W thermal design power of an AMD EPYC 7763 over its 64 cores (data sheet)


def modelled_power(devices: Any) -> tuple[float, str] | tuple[None, str]:
    """Watts of a mesh with all around it, and the model in words; None of a chip that the table does not have.

    Args:
      devices: NumPy array of jax.Device, such as `mesh.devices`. Emulated CPU devices share the cores of a process.
    """
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
