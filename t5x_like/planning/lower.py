# SPDX-License-Identifier: Apache-2.0
"""Lowers and compiles a run's real training step for devices that need not be there. Nothing is allocated or run."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError

from t5x_like.config import RunConfig
from t5x_like.errors import UserError
from t5x_like.planning.collectives import Collective, collectives
from t5x_like.planning.hlo import parse, product_flops
from t5x_like.training.memory_fit import one_step
from t5x_like.training.program import Program, program_config

# What batches of packed text hold, of every stream and of the one whose tokens are targets; see data/packing.py.
READ = {"input_tokens": jnp.int32, "segment_ids": jnp.int32, "positions": jnp.int32}
PREDICTED = {"target_tokens": jnp.int32, "loss_weights": jnp.float32}


@dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of one training step, for each device."""

    mesh: dict[str, int]  # sizes of the mesh's axes
    arguments: int  # this and the next three in bytes
    temporaries: int
    outputs: int  # without those that take an argument's place
    code: int
    collectives: list[Collective]  # see `planning.collectives`
    product_flops: float  # see `planning.hlo`
    lower_seconds: float  # wall time, as that of compiling
    compile_seconds: float

    @property
    def peak(self) -> int:
        """Bytes of a device's memory that the step takes at most."""
        return self.arguments + self.temporaries + self.outputs + self.code


def _features(config: RunConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Of one row."""
    if (given := getattr(config.data, "features", None)) is not None:
        return {name: jax.ShapeDtypeStruct(*what) for name, what in given.items()}
    *_, target = streams = config.model.streams
    return {
        f"{stream}_{name}": jax.ShapeDtypeStruct((config.data.lengths[stream],), dtype)
        for stream in streams
        for name, dtype in (READ | (PREDICTED if stream == target else {})).items()
    }


def compile_step(config: RunConfig, devices: Sequence[jax.Device] | None = None) -> CompiledStep:
    """Compiles one training step of a resolved run for `devices` (by default this machine's).

    Takes seconds on a small mesh of CPUs, minutes for a slice. Raises UserError: a mesh or a batch that does not fit
    the devices or the model; or the compiler refuses the step, because it does not fit the memory.
    """
    began = time.monotonic()
    program, rows = Program(program_config(one_step(config)), devices), config.training.batch_size
    program.layout.check_batch(rows, config.training.parts)
    lowered = program.step.lower(*program.abstract_arguments(_features(config), rows))
    lowered_at = time.monotonic()
    try:
        compiled = lowered.compile()
    except JaxRuntimeError as error:  # a step that does not fit the memory, above all
        raise UserError(f"the compiler refuses the step: {' '.join(str(error).split())[:300]}") from None
    seconds = time.monotonic() - lowered_at
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None  # both compilers give them
    step = parse(text)
    mesh = dict(program.layout.mesh.shape)
    return CompiledStep(
        mesh,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.generated_code_size_in_bytes,
        collectives(step, mesh),
        product_flops(step),
        lowered_at - began,
        seconds,
    )
