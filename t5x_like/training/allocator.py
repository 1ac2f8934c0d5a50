# SPDX-License-Identifier: Apache-2.0
"""Memory that a step frees stays with the process, for the next step: for XLA:CPU under glibc.

XLA:CPU allocates its temporaries anew in every call and glibc gives large ones back to the kernel, which then clears
every page of them again. Accelerators manage their own memory, and nothing here concerns them.
"""

import ctypes
import importlib.util
import os
import sys
from importlib.metadata import entry_points

import jax

# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory; returns whether it could be told.

    Call it before JAX starts its threads: one that has allocated keeps the arena it got then, and what is freed there
    goes back to the kernel. What the user has set through MALLOC_ variables of the environment stays.
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
