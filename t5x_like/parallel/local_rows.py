# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch this process must have, derived from where the mesh puts them; and what all have alike.

The process's number alone does not say: under `data` over two hosts each needs its own half; with `tensor`, `seq` or
`expert` across them both need the same rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Share:
    """Part `part` of a batch that is cut into `parts` equal parts of consecutive rows."""

    part: int
    parts: int


@lru_cache
def share_of(batch: NamedSharding, devices: frozenset[Any] | None = None) -> Share:
    """The smallest share of a batch, by the sharding of an array whose first dimension is its rows, that has all the
    rows of a process's devices, by default this one's."""
    devices = frozenset(jax.local_devices()) if devices is None else devices
    rows = batch.spec[0] if len(batch.spec) else None
    names = (rows,) if isinstance(rows, str) else rows or ()
    pieces = math.prod(batch.mesh.shape[name] for name in names)
    places: Mapping[Any, Any] = NamedSharding(batch.mesh, PartitionSpec(rows)).devices_indices_map((pieces,))
    mine = {place[0].indices(pieces)[0] for device, place in places.items() if device in devices}
    for parts in range(pieces, 1, -1):
        if pieces % parts == 0 and len({piece * parts // pieces for piece in mine}) == 1:
            return Share(min(mine) * parts // pieces, parts)
    return Share(0, 1)


def whole(array: Any) -> np.ndarray:
    """A whole array, on every host: that of several hosts is gathered."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def as_the_first(value: Any) -> Any:
    """Returns the first process's number or array, of at most 32 bits, in every process; waits for all of them."""
    if jax.process_count() == 1:
        return value
    told = np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))
    return told if told.ndim else told.item()


def put_rows(
    batch: Mapping[str, np.ndarray], share: Share, where: Mapping[str, NamedSharding], leading: int = 0
) -> dict[str, jax.Array]:
    """Puts this process's share of a batch on its devices, as its part of arrays over all processes' devices.

    Dimension `leading` of each feature is the rows of `share`, other dimensions are whole; `where` are the shardings of
    the whole batch's, which may cut these as well.
    """

    def put(name: str, local: np.ndarray) -> jax.Array:
        rows = local.shape[leading]
        shape = (*local.shape[:leading], rows * share.parts, *local.shape[leading + 1 :])

        def piece(index: Any) -> np.ndarray:
            begin, end, _ = index[leading].indices(shape[leading])
            first = share.part * rows
            return local[(*index[:leading], slice(begin - first, end - first), *index[leading + 1 :])]

        return jax.make_array_from_callback(shape, where[name], piece)

    return {name: put(name, value) for name, value in batch.items()}
