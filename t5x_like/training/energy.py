# SPDX-License-Identifier: Apache-2.0
"""The energy of a session: measured by codecarbon where the machine has meters, else modelled.

codecarbon (extra `[carbon]`) measures an NVIDIA GPU through NVML and a processor through RAPL. Else it would take a
processor's thermal design power, as our own model does, which also knows TPUs.
"""

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from t5x_like.accounting.hardware import GRID, PUE, modelled_power
from t5x_like.training.one_writer import is_writer
from t5x_like.versions import package_version

JOULES = 3.6e6  # of a kWh
RAPL = Path("/sys/class/powercap")


class EnergyMeter:
    """Call `read` for the kWh since the last time; `method` says in words how they are known."""

    def __init__(self, devices: Any, started: float):
        """`started`: since when a model counts, on the clock of time.monotonic()."""
        self.method = ""
        self.read: Callable[[], float | None]
        meters = _meters() if is_writer() else []
        if meters and importlib.util.find_spec("codecarbon") is not None:
            self._measure(meters)
        else:
            self._model(devices, started)

    def _model(self, devices: Any, started: float) -> None:
        watts, self.method = modelled_power(devices)
        last = [started]

        def read() -> float | None:
            now = time.monotonic()
            seconds, last[0] = now - last[0], now
            return None if watts is None else watts * seconds / JOULES

        self.read = read

    def _measure(self, meters: list[str]) -> None:
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        from codecarbon import OfflineEmissionsTracker

        tracker = OfflineEmissionsTracker(
            country_iso_code="USA",  # asks for one; the emissions are ours, from the energy
            save_to_file=False,
            log_level="critical",
            tracking_mode="process",  # its share of the machine: other runs may be on it
            allow_multiple_runs=True,
        )
        processes = jax.process_count()
        others = f", times {processes} processes" if processes > 1 else ""
        version = package_version("codecarbon")
        self.method = f"codecarbon {version}: measured by {' and '.join(meters)}{others}, PUE {PUE:g}"
        tracker.start_task()

        def read() -> float:
            energy = float(tracker.stop_task().energy_consumed)
            tracker.start_task()
            return energy * processes * PUE

        self.read = read


def energy_summary(kwh: float | None, method: str) -> dict[str, Any]:
    """What summary.json says of it: the emissions are those of the world's mean kWh."""
    if kwh is None:
        return {"kwh": None, "co2_kg": None, "method": method}
    return {"kwh": kwh, "co2_kg": kwh * GRID, "method": f"{method}, {GRID:g} kg CO2e/kWh"}


def _meters() -> list[str]:
    meters = []
    if any(os.access(path, os.R_OK) for path in RAPL.glob("intel-rapl*/energy_uj")):
        meters.append("RAPL")
    if any(device.platform == "gpu" for device in jax.local_devices()):
        meters.append("NVML")
    return meters
