# SPDX-License-Identifier: Apache-2.0
"""What a training step's time goes to, by the names of the operations in a profile of it (on a CPU)."""

import collections
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Parts of a step and how the names of their operations are recognised; the first that fits counts.
PARTS = {
    "optimizer": r"/optimizer/",
    "loss over the vocabulary": r"[/(]loss[/)]",
    "projections of attention": r"/attention/(query|key|value|out)/",
    "attention itself": r"/attention/",
    "mlp": r"/mlp/",
    "norms": r"(?i)norm[/)]",
    "embeddings": r"(?i)embedding[/)]",
}
REST = "the rest"

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*? ([\w\-]+)\(.*?(?:op_name=\"([^\"]*)\".*)?$", re.MULTILINE)
_CALLERS = ("while", "call", "conditional")  # their time is that of what they call


def shares(steps: int = 5, **shape: Any) -> dict[str, float]:
    """Profiles a training step of this shape in a process of its own; returns {part: its share of the time}."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(_shares, steps, shape).result()


def _shares(steps: int, shape: dict[str, Any]) -> dict[str, float]:
    from contenders.ours import compiled_step

    work, step, _ = compiled_step(**shape)
    work(3)  # until it has settled
    parts = {name: part_of(operation) for name, operation in operations(step.as_text())}
    spent = dict.fromkeys((*PARTS, REST), 0.0)
    for name, nanoseconds in _profile(work, steps).items():
        if name in parts:
            spent[parts[name]] += nanoseconds
    return {part: time / sum(spent.values()) for part, time in spent.items()}


def operations(program: str) -> Iterator[tuple[str, str]]:
    """Of a compiled program's text: (name of an instruction, what of the model it computes) for all that do work."""
    for name, kind, operation in _INSTRUCTION.findall(program):
        if kind not in _CALLERS:
            yield name, operation


def part_of(operation: str) -> str:
    """The part of a step, a name in `PARTS`, that an operation such as "jit(step)/.../mlp/dot_general" belongs to."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, operation)), REST)


def _profile(work: Any, steps: int) -> dict[str, float]:
    """{name: nanoseconds} of everything that was traced while `work(steps)` ran, over all threads."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 2, 0
    spent: dict[str, float] = collections.defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            work(steps)
        (path,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    spent[event.name] += event.duration_ns
    return spent
