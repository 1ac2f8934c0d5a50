# SPDX-License-Identifier: Apache-2.0
"""Rewards that can be checked: of a prompt, what was written, and what the data says of it."""

import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from t5x_like.config.objectives.policy import PolicyConfig

Check = Callable[[str, str], float]  # what was written, the data's answer

# Run in a process of its own. Limits come first, then what may be anything.
_RUNNER = """
import resource, sys
ended, (seconds, size) = sys.argv.pop(), map(int, sys.argv[1:])
for what, most in (("CPU", seconds), ("AS", size), ("FSIZE", 0), ("NOFILE", 16), ("CORE", 0), ("NPROC", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
exec(compile(sys.stdin.read(), "answer", "exec"), {"__name__": "__main__"})
print(ended)
"""


def exact(written: str, answer: str) -> float:
    """1 where both are the same, but for white space around them."""
    return float(written.strip() == answer.strip())


def contains(written: str, answer: str) -> float:
    return float(answer.strip() in written)


def passes(written: str, test: str, *, seconds: float, memory_mb: int) -> float:
    """1 where a program with a test behind it runs to its end, in an isolated Python of bounded time and memory that
    writes no files. What it may read it can still read: an answer is no stranger's."""
    limits = [str(max(1, int(seconds))), str(memory_mb * 2**20)]
    ended = secrets.token_hex(8)  # a program that exits before its test does not know it
    command = [sys.executable, "-I", "-S", "-c", _RUNNER, *limits, ended]
    with tempfile.TemporaryDirectory() as folder:
        try:
            how: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "cwd": folder, "env": {}}
            told = subprocess.run(command, input=f"{written}\n{test}\n".encode(), timeout=2 * seconds + 5, **how)
        except subprocess.TimeoutExpired:
            return 0.0
    return float(told.returncode == 0 and told.stdout.decode("utf-8", "replace").rstrip().endswith(ended))


def rewards_of(config: PolicyConfig, written: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Of every text; where a model judges, whether it is the answer of the data."""
    tested = partial(passes, seconds=config.seconds, memory_mb=config.memory_mb)
    checks: dict[str, Check] = {"exact": exact, "contains": contains, "unit_test": tested}
    check = checks.get(config.reward, exact)
    if config.reward != "unit_test":
        return [check(text, answer) for text, answer in zip(written, answers, strict=True)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(check, written, answers))
