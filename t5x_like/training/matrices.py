# SPDX-License-Identifier: Apache-2.0
"""Which dimensions of a parameter are a matrix's rows and columns, read from its ParamSpec and never from its shape."""

import dataclasses
import math

import jax

from t5x_like.models.layers.parameters import ParamSpec

STACKING_AXES = ("layers", "stage", "expert")  # one parameter along each of these is many, side by side


@dataclasses.dataclass(frozen=True)
class Dimensions:
    """The dimensions of a parameter by what they mean."""

    rows: tuple[int, ...]  # those that a product contracts; empty unless the parameter is a matrix
    columns: tuple[int, ...]  # those that it produces; empty unless the parameter is a matrix
    own: tuple[int, ...]  # of a single layer's parameter: rows and columns of a matrix, else what is not stacked
    stacked: tuple[int, ...]  # the others


def dimensions(spec: ParamSpec) -> Dimensions:
    """Finds the dimensions of a parameter, e.g. rows (1,) and columns (2, 3) of a stacked query kernel [L, D, H, C]."""
    rows: list[int] = []
    columns: list[int] = []
    free = list(range(len(spec.axes)))
    if spec.is_matrix:
        for names, found in ((spec.in_axes, rows), (spec.out_axes, columns)):
            for name in names:  # an axis that is both in and out, as in a square kernel, comes in first
                found.append(next(dim for dim in free if spec.axes[dim] == name))
                free.remove(found[-1])
        own = sorted(rows + columns)
    else:
        own = [dim for dim in free if spec.axes[dim] not in STACKING_AXES]
    stacked = tuple(dim for dim in range(len(spec.axes)) if dim not in own)
    return Dimensions(tuple(rows), tuple(columns), tuple(own), stacked)


def to_matrices(x: jax.Array, spec: ParamSpec) -> jax.Array:
    """[L, D, H, C] -> [L, D, H * C], whatever the dimensions: one matrix [rows, columns] for each layer."""
    dims = dimensions(spec)
    moved = x.transpose(dims.stacked + dims.rows + dims.columns)
    return moved.reshape(-1, *(math.prod(x.shape[dim] for dim in group) for group in (dims.rows, dims.columns)))


def from_matrices(matrices: jax.Array, spec: ParamSpec) -> jax.Array:
    """The inverse of `to_matrices`."""
    dims = dimensions(spec)
    order = dims.stacked + dims.rows + dims.columns
    back = tuple(order.index(dim) for dim in range(len(order)))
    return matrices.reshape([spec.shape[dim] for dim in order]).transpose(back)
