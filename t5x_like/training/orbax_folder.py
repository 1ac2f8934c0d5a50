# SPDX-License-Identifier: Apache-2.0
"""A folder of Orbax's: opened, written to with a user's errors, and compared with what is wanted before it is read."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from t5x_like.errors import UserError
from t5x_like.training.parameter_rules import path_name
from t5x_like.training.seals import seal


def open_manager(folder: Path, keep: int, items: dict[str, Any]) -> ocp.CheckpointManager:
    """A manager that writes in the background and, on a disk, seals what it has written."""
    on_disk = isinstance(folder, Path)
    sealing = ocp.options.AsyncOptions(post_finalization_callback=partial(seal, folder) if on_disk else None)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=True, async_options=sealing
    )
    place = folder.absolute() if on_disk else folder  # one in a bucket is absolute
    return ocp.CheckpointManager(place, options=options, item_handlers=items)


@contextmanager
def writing(folder: Any) -> Iterator[None]:
    """Makes a user's error of what the disk refuses."""
    try:
        yield
    except (OSError, ValueError) as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's errors are ValueErrors
        if code is None and not isinstance(error, OSError):
            raise
        why = os.strerror(int(code[1])) if code else error.strerror  # type: ignore[union-attr]
        raise UserError(
            f"{folder}: a checkpoint cannot be written: {why}; those before it are whole, and the same command goes on "
            "from them"
        ) from error


def check_item(manager: ocp.CheckpointManager, folder: Any, step: int, name: str, wanted: Any) -> None:
    """Compares names, shapes and dtypes first: Orbax would cast a wrong dtype without a word."""
    saved = leaves_of(manager.item_metadata(step).get(name))
    expected = leaves_of(wanted)
    for path in sorted(saved.keys() | expected.keys()):
        if saved.get(path) != expected.get(path):
            raise UserError(
                f"{folder}/{step}: {name}/{path} is {saved.get(path, 'absent')} in the checkpoint and "
                f"{expected.get(path, 'absent')} in this run's config"
            )


def leaves_of(tree: Any) -> dict[str, str]:
    """{path: "float32[3, 4]"} of a tree of arrays or of Orbax's metadata."""
    leaves = [(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf, "dtype")]
    return {path_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
