# SPDX-License-Identifier: Apache-2.0
"""Rewards that can be checked: of a prompt, what was written, and what the data says of it."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from t5x_like.config.objectives.policy import PolicyConfig

Check = Callable[[str, str], float]  # what was written, the data's answer

# Run in a process of its own. Limits come first, then what may be anything.
_RUNNER = """
import resource, sys
seconds, size = int(sys.argv[1]), int(sys.argv[2])
for what, most in (("CPU", seconds), ("AS", size), ("FSIZE", 0), ("NOFILE", 16), ("CORE", 0), ("NPROC", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
exec(compile(sys.stdin.read(), "answer", "exec"), {"__name__": "__main__"})
"""


def exact(written: str, answer: str) -> float:
    """1 where both are the same, but for white space around them."""
    return float(written.strip() == answer.strip())


def contains(written: str, answer: str) -> float:
    return float(answer.strip() in written)


def passes(written: str, test: str, *, seconds: float, memory_mb: int) -> float:
    """1 where a program with a test behind it ends without an error, in an isolated Python of bounded time and memory
    that writes no files and starts no processes; what it could read it can still read."""
    limits = [str(max(1, int(seconds))), str(memory_mb * 2**20)]
    command = [sys.executable, "-I", "-S", "-c", _RUNNER, *limits]
    with tempfile.TemporaryDirectory() as folder:
        try:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "env": {}}
            ended = subprocess.run(command, input=f"{written}\n{test}\n".encode(), timeout=seconds, **quiet)  # type: ignore[call-overload]
        except subprocess.TimeoutExpired:
            return 0.0
    return float(ended.returncode == 0)


def rewards_of(config: PolicyConfig, written: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Of every text."""
    limits = {"seconds": config.seconds, "memory_mb": config.memory_mb}
    checks: dict[str, Check] = {"exact": exact, "contains": contains, "unit_test": partial(passes, **limits)}
    check = checks[config.reward]
    if config.reward != "unit_test":
        return [check(text, answer) for text, answer in zip(written, answers, strict=True)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(check, written, answers))
