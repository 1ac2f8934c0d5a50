# SPDX-License-Identifier: Apache-2.0
"""Compiling with a clock beside it."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from t5x_like.config import RunConfig
from t5x_like.planning.topology import Slice, devices_of


def compile_for(config: RunConfig, slice_: Slice) -> Any:
    """`compile_step` for a slice, on another thread, so that a clock runs on a terminal and ctrl-C is heard.

    Raises:
      UserError: see `compile_step` and `devices_of`.
    """
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
