# SPDX-License-Identifier: Apache-2.0
"""What a program does once, before it trains: caches, memory, and signals that stop it cleanly."""

import ctypes
import importlib.util
import logging
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from t5x_like.data.cache import cache_root
from t5x_like.errors import UserError

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def configure_jax() -> None:
    """Turns JAX's persistent compilation cache on, for small programs too; a CPU keeps the memory it frees.

    May start the backend: what must come before that (several hosts finding one another) must come before this. Raises
    UserError: the cache's folder cannot be made."""
    folder = cache_root() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"T5X_LIKE_CACHE: {folder} cannot be made ({error.strerror})") from None
    quiet_orbax()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if only_cpus() or jax.default_backend() == "cpu":
        keep_freed_memory()


def quiet_orbax() -> None:
    """What Orbax's threads log when a disk is full, in hundreds of lines, it also raises: one line is for the user. Nor
    need he know that it removes what a killed process had half written."""

    def is_news(record: logging.LogRecord) -> bool:
        is_known = record.levelno == logging.ERROR or "it is not finalized" in record.getMessage()
        return "orbax" not in record.pathname or not is_known

    def tell(what: Any) -> None:
        if str(what.exc_value) != "Event loop is closed":  # of its coroutines that were never awaited
            before(what)

    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    before = sys.unraisablehook
    sys.unraisablehook = tell
    logging.getLogger("absl").addFilter(is_news)
    logging.getLogger("asyncio").addFilter(lambda record: "os_error_code" not in record.getMessage())


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory for the next step; returns whether it could be told.

    XLA:CPU allocates its temporaries anew in every call and glibc gives large ones back to the kernel, which then
    clears every page of them again. Call it before JAX starts its threads: one that has allocated keeps the arena it
    got then, and gives back what is freed there. What MALLOC_ variables of the environment have set stays.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # One arena, grown by brk, never by mmap, and never trimmed.
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1)])


def only_cpus() -> bool:
    """Whether JAX can run on nothing else, as far as that can be told before it starts: it has no other plugin."""
    if platforms := jax.config.values["jax_platforms"]:
        return platforms == "cpu"
    found = any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
    return not found and not entry_points(group="jax_plugins")


def peak_memory() -> int:
    """Peak bytes: of the device where it keeps count, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def process_started() -> float:
    """When this process began, on the clock of time.monotonic(); now, where the system does not say."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, AttributeError):  # only Linux has both
        return time.monotonic()


class StopRequest:
    """Whether SIGTERM or ctrl-C asked for an end: true once one came."""

    came = False

    def __bool__(self) -> bool:
        return self.came


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Notes SIGTERM and the first ctrl-C instead of dying of them; a second ctrl-C interrupts at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.came = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
