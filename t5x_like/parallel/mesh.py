# SPDX-License-Identifier: Apache-2.0
"""The mesh of devices: always the same six axes, of size 1 where they are not used."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh

from t5x_like.config import MeshConfig
from t5x_like.config.execution import MESH_AXES as AXES
from t5x_like.errors import UserError


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices (default: those of all processes) in the six axes; a smaller mesh takes the first ones.

    The last axes lie closest together. On CPUs and GPUs devices are taken process by process, so `tensor` stays within
    a host as long as it fits, and `pipe`, then `data`, go across; on a TPU JAX lays the axes along the slice's own, and
    of several slices `pipe`, then `data`, go across. Raises UserError: a mesh larger than the machine, that does not
    divide its devices, that leaves out some of several processes' devices, or whose `pipe` and `data` several slices do
    not divide."""
    processes = jax.process_count() if devices is None else 1  # a slice that is planned for has none yet
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    sizes = config.sizes
    free = next((name for name, size in sizes.items() if size == -1), None)
    fixed = math.prod(size for size in sizes.values() if size != -1)
    described = ", ".join(f"{name}={size}" for name, size in sizes.items() if size != 1) or "all axes 1"
    where = "this machine has" if processes == 1 else f"the {processes} processes have"
    machine = f"{where} {len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
    if fixed > len(devices):
        needs = f"{described} needs {fixed} devices, {machine}"
        raise UserError(f"mesh: {needs}; accepted: sizes whose product is at most {len(devices)}")
    if free:
        if len(devices) % fixed:
            raise UserError(f"mesh.{free}=-1: the other axes' {fixed} devices do not divide: {machine}")
        sizes[free] = len(devices) // fixed
    shape = tuple(sizes[name] for name in AXES)
    if processes > 1 and math.prod(shape) < len(devices):
        raise UserError(
            f"mesh: {described} takes {math.prod(shape)} devices, {machine}; accepted: a mesh of all of them, such as "
            "-1 on one axis"
        )
    return Mesh(arranged(shape, devices[: math.prod(shape)]), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arranged(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    """As many devices as a mesh of this shape has, laid out as `make_mesh` says."""
    if devices[0].platform != "tpu":  # they say nothing of how they are linked, but which process has them
        return np.array(devices).reshape(shape)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        between = _between(shape, slices)
        within = tuple(size // parts for size, parts in zip(shape, between, strict=True))
        return create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    try:
        return create_device_mesh(shape, devices)
    except NotImplementedError:  # axes that are no products of the slice's dimensions: one of these is cut
        return create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _between(shape: tuple[int, ...], slices: int) -> tuple[int, ...]:
    """Over how many slices each axis goes: `pipe` over as many as it can, `data` over the others."""
    pipe = math.gcd(shape[0], slices)
    if shape[1] % (slices // pipe):
        raise UserError(
            f"mesh: pipe={shape[0]}, data={shape[1]} do not divide over {slices} slices, between which only these two "
            f"can go; accepted: pipe x data a multiple of {slices}"
        )
    return (pipe, slices // pipe, *[1] * (len(shape) - 2))
