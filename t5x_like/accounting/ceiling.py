# SPDX-License-Identifier: Apache-2.0
"""The peak of a CPU: nobody publishes one that a product reaches, so the rate of a large float32 product is measured.

Once on a machine, for a processor, the cores that this process may use and the version of JAX. One process measures;
others wait for its figure, so that the workers of a sweep do not measure one another.
"""

import fcntl
import hashlib
import os
import platform
import re
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from t5x_like.errors import UserError
from t5x_like.files import read_json, write_json

SIZES = {8: 2048, 1024: 4096}  # rows and columns of the matrices, by the most cores that they keep busy
SECONDS = 0.6  # to go on repeating for
PATIENCE = 10.0  # seconds to wait for another process that measures
QUIET = 0.8  # share of the cores' time that the product got, below which the machine was busy with something else
ATTEMPTS = 5  # measurements of a machine that is never quiet


@dataclass(frozen=True)
class Ceiling:
    """A measured rate."""

    flops_per_second: float  # of the fastest repeat
    core_share: float  # processor time over wall time and cores: well below 1 when other processes were at work
    attempts: int = 1  # how many measurements this is the best of

    @property
    def peak(self) -> float:
        """What the cores can do: the measured rate, or on a busy machine what it would be with all of their time."""
        return self.flops_per_second if self.core_share >= QUIET else self.flops_per_second / self.core_share

    @property
    def settled(self) -> bool:
        return self.core_share >= QUIET or self.attempts >= ATTEMPTS

    def better(self, other: "Ceiling | None") -> "Ceiling":
        """The one of two from the quieter machine, counted as one more attempt."""
        if other is None:
            return self
        best = max(self, other, key=lambda ceiling: (ceiling.core_share >= QUIET, ceiling.peak))
        return replace(best, attempts=self.attempts + other.attempts)


@cache
def matmul_ceiling(folder: Path) -> float | None:
    """FLOP/s of a float32 matrix product of this CPU, on the cores that this process may use; kept in `folder`.

    After a measurement on a busy machine the next process tries again, a few times. None when the figure cannot be
    kept, or another process has been measuring for too long.
    """
    machine = {"processor": _processor(), "cores": usable_cores(), "jax": version("jax")}  # what the figure depends on
    key = hashlib.sha256(repr(sorted(machine.items())).encode()).hexdigest()[:12]
    path = folder / f"matmul_ceiling-{key}.json"
    stored = _read(path)
    if stored is not None and stored.settled:
        return stored.peak
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("a") as lock:
            if not _locked(lock.fileno()):
                return None if stored is None else stored.peak
            before, stored = stored, _read(path)
            if stored is None or stored == before:  # else it was measured while this process waited
                stored = measure().better(stored)
                write_json(path, asdict(stored) | machine)
    except OSError:
        return None
    return stored.peak


def measure(size: int | None = None, seconds: float = SECONDS) -> Ceiling:
    """Times products of two float32 matrices of `size` x `size` through JAX on the first CPU device."""
    import jax
    import numpy as np

    cores = usable_cores()
    size = size or next((size for most, size in SIZES.items() if cores <= most), max(SIZES.values()))
    device = jax.local_devices(backend="cpu")[0]
    left, right = (jax.device_put(np.full((size, size), value, np.float32), device) for value in (0.5, 2.0))
    product = jax.jit(lambda left, right: left @ right)
    began = time.perf_counter()
    product(left, right).block_until_ready()  # compiles, and wakes the threads
    found: list[Ceiling] = []
    while not found or time.perf_counter() - began < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        product(left, right).block_until_ready()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        found.append(Ceiling(2.0 * size**3 / wall, min(1.0, max(cpu, 1e-9) / (wall * cores))))
    return max(found, key=lambda ceiling: ceiling.flops_per_second)


def _read(path: Path) -> Ceiling | None:
    try:
        content = read_json(path)
        found = Ceiling(float(content["flops_per_second"]), float(content["core_share"]), int(content["attempts"]))
        return found if found.flops_per_second > 0 and 0 < found.core_share <= 1 else None
    except (UserError, KeyError, TypeError, ValueError):  # none yet, or not one of ours: measured again
        return None


def _locked(file: int) -> bool:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)


def usable_cores() -> float:
    """Cores that this process may use: those it is pinned to, or fewer when its container has a quota of their time."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, float(quota) / float(period))
    except (OSError, ValueError):  # no control groups here, or of the first version
        return cores


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    named = re.search(r"^model name.*?: *(.*?) *$", known.read_text() if known.is_file() else "", re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()
