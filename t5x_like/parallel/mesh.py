# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices: always the same six axes, of size 1 where they are not used."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from t5x_like.config import MeshConfig
from t5x_like.errors import UserError

AXES = ("pipe", "data", "fsdp", "expert", "seq", "tensor")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices (default: all) in the six axes; a smaller mesh takes the first ones.

    Raises:
      UserError: a mesh larger than the machine, or one that does not divide its devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = config.sizes
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    described = ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "all axes 1"
    machine = f"this machine has {len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
    if fixed > len(devices):
        raise UserError(
            f"mesh: {described} needs {fixed} devices, {machine}; accepted: sizes whose product is at most "
            f"{len(devices)}"
        )
    if free:
        if len(devices) % fixed:
            raise UserError(f"mesh.{free[0]}=-1: the other axes' {fixed} devices do not divide: {machine}")
        sizes[free[0]] = len(devices) // fixed
    if jax.process_count() > 1:
        raise UserError(f"mesh: {jax.process_count()} processes; runs of more than one host are not supported yet")
    shape = tuple(sizes[name] for name in AXES)
    chosen = devices[: math.prod(shape)]
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=chosen)
