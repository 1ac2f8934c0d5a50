# SPDX-License-Identifier: Apache-2.0
"""What a step may keep, and in how many parts it takes its batch, so that it fits the device: by the compiler's count.

"auto" asks the compiler how much memory a step of each candidate takes, cheapest first, and takes the first that fits:

    remat         none, products, full, offload: each computes, or moves to the host, more than the one before
    microbatches  within each, as few as fit: more of them cost nothing but smaller products
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from t5x_like.accounting.hardware import memory_of
from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.parallel.mesh import make_mesh
from t5x_like.parallel.rules import MeshLayout
from t5x_like.training.program import Program, program_config

ORDER: Any = ("none", "products", "full", "offload")
SHARE = 0.92  # of the memory that a step may take: allocators need room between their blocks


def is_settled(config: RunConfig) -> bool:
    """Whether nothing of a run is left to choose."""
    return config.execution.remat != "auto" and config.training.microbatches != "auto"


def check_sizes(config: RunConfig) -> None:
    """Refuses a batch or a length that the mesh does not divide, before anything is compiled."""
    layout = MeshLayout(make_mesh(config.mesh))
    layout.check_length(config.data.sequence_length, "data.sequence_length")
    if config.training.microbatches != "auto":
        layout.check_batch(config.training.batch_size, config.training.microbatches)


def settle(
    config: RunConfig,
    features: Mapping[str, jax.ShapeDtypeStruct],
    *,
    memory: float,
    note: Callable[[str], None] = lambda line: None,
) -> RunConfig:
    """Replaces every "auto" of `execution.remat` and `training.microbatches` of a resolved run, noting what is taken.

    `features` are of one training row, without that dimension; `memory` is a device's bytes, as of `device_memory`.
    Raises UserError: nothing fits."""
    if is_settled(config):
        return config
    least: tuple[float, str] | None = None
    for remat in ORDER if config.execution.remat == "auto" else [config.execution.remat]:
        kept = bound = 0.0  # of what the next number of microbatches takes: temporaries shrink at most as the parts do
        for number in _numbers(config):
            if bound and bound / number > SHARE * memory - kept:
                continue
            execution = dataclasses.replace(config.execution, remat=remat)
            training = dataclasses.replace(config.training, microbatches=number)
            candidate = dataclasses.replace(config, execution=execution, training=training)
            name = f"execution.remat={remat}, training.microbatches={number}"
            kept, temporaries = step_bytes(candidate, features)
            if kept + temporaries <= SHARE * memory:
                before = "" if least is None else f" (the least before: {least[1]}, {_gib(least[0])})"
                note(f"auto: {name}; a step takes {_gib(kept + temporaries)} of a device's {_gib(memory)}{before}")
                return candidate
            least = min(least or (math.inf, ""), (kept + temporaries, name))
            bound = temporaries * number if math.isfinite(temporaries) else 0.0
    assert least is not None
    raise UserError(
        f"execution.remat: nothing fits {_gib(memory)} a device; the least is {least[1]} with {_gib(least[0])}; "
        "accepted: a mesh that cuts the model further (fsdp, tensor, pipe), or a shorter data.sequence_length"
    )


def one_step(config: RunConfig) -> RunConfig:
    """The same run with one training step in a call."""
    return dataclasses.replace(config, execution=dataclasses.replace(config.execution, steps_per_call=1))


def step_bytes(config: RunConfig, features: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[float, float]:
    """Bytes of a device's memory that a training step takes: for the state and a batch, and for temporaries. As the
    compiler lays them out; the latter are infinite where it finds that the step cannot be laid out."""
    program = Program(program_config(one_step(config)))
    arguments = program.abstract_arguments(features, config.training.batch_size)
    try:
        found = program.step.lower(*arguments).compile().memory_analysis()
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return 0.0, math.inf
    assert found is not None
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return float(found.argument_size_in_bytes), float(found.temp_size_in_bytes + outputs)


def device_memory() -> float:
    """Bytes of one device: what it says, else what its kind has, else its share of this machine's. Raises UserError:
    none of them is known."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if found := limit or memory_of(device.device_kind):
        return float(found)
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / jax.local_device_count()
    raise UserError(f"execution.remat: the memory of {device.device_kind} is not known; accepted: {', '.join(ORDER)}")


def _numbers(config: RunConfig) -> list[int]:
    """The numbers of microbatches to try, fewest first: those that divide the batch and that the mesh divides."""
    if config.training.microbatches != "auto":
        return [config.training.microbatches]
    layout = MeshLayout(make_mesh(config.mesh))
    size, stages, rows = config.training.batch_size, layout.mesh.shape["pipe"], layout.in_stage.batch_parts
    layout.check_batch(size, stages)
    return [n for n in range(stages, size + 1, stages) if size % n == 0 and (size // n) % rows == 0]


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
