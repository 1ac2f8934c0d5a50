# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run agree on before and while they train. Of a single process nothing is asked."""

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like.errors import UserError

FILE_PATIENCE = 30.0  # seconds that a shared file system may take to show what another host wrote


def is_writer() -> bool:
    """Whether this process writes the run folder's files: the first one does. Checkpoints are written by all."""
    return jax.process_index() == 0


def check_same(texts: Mapping[str, str]) -> None:
    """Raises UserError where this process has another text than the first, of texts by what they are."""
    if jax.process_count() == 1:
        return
    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in texts.values()]
    ours = np.stack(digests).astype(np.int32)
    same = (ours == multihost_utils.broadcast_one_to_all(ours)).all(axis=1)
    for what, equal in zip(texts, same, strict=True):
        if not equal:
            raise UserError(f"{what} of process {jax.process_index()} is not that of process 0")


def wait_for(path: Path, refresh: Callable[[], None] = lambda: None, patience: float = FILE_PATIENCE) -> None:
    """Waits until this process, too, sees a file that the first one has written; `refresh` is called before every look.
    UserError: it does not come within `patience` seconds."""
    until = time.monotonic() + patience
    while not path.is_file():
        refresh()
        if path.is_file():
            return
        if time.monotonic() > until:
            raise UserError(
                f"{path}: process 0 has written it, and process {jax.process_index()} does not see it; several hosts "
                "need a --workdir that all of them see: a shared file system, or gs://"
            )
        time.sleep(0.2)


class AnyProcess:
    """Whether any process of the mesh says yes: a number for each device, added up with a compiled call."""

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._sum = jax.jit(lambda flags: flags.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._size = mesh.size

    def __call__(self, here: bool) -> jax.Array:
        """Returns a scalar above 0 when any process says yes, without waiting for it."""
        flags = np.full(self._size, here, np.int32)
        return self._sum(jax.make_array_from_callback(flags.shape, self._sharding, lambda index: flags[index]))
