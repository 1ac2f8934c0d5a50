# SPDX-License-Identifier: Apache-2.0
"""What a program does once, before it trains: caches, and signals that stop it cleanly."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jax

from t5x_like.data.cache import cache_root
from t5x_like.errors import UserError
from t5x_like.training.allocator import keep_freed_memory, only_cpus


def configure_jax() -> None:
    """Turns JAX's persistent compilation cache on, for small programs too, and has a CPU keep the memory it frees.

    May start the backend: what must come before that (several hosts finding one another) must come before this.

    Raises:
      UserError: the cache's folder cannot be made.
    """
    folder = cache_root() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"T5X_LIKE_CACHE: {folder} cannot be made ({error.strerror})") from None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if only_cpus() or jax.default_backend() == "cpu":
        keep_freed_memory()


def process_started() -> float:
    """When this process began, on the clock of time.monotonic(); now, where the system does not say."""
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, AttributeError):  # only Linux has both
        return time.monotonic()


class StopRequest:
    """Whether SIGTERM or ctrl-C asked for an end.

    Attributes:
      signal: number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


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
        request.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
