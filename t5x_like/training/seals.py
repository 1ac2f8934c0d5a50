# SPDX-License-Identifier: Apache-2.0
"""The seal of a checkpoint: what its files held when it was written, so that damage is seen before it is loaded.

Orbax writes a checkpoint into a temporary folder and renames it when it is whole. Just before that, the first process
puts `seal.json` into it: the SHA-256 of every file. A bucket keeps checksums of its own, and its checkpoints get none.
"""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from t5x_like.errors import UserError
from t5x_like.files import read_json, write_json

SEAL = "seal.json"
ORBAX = "_CHECKPOINT_METADATA"  # into which Orbax writes the time when it renames the folder
THREADS = 8  # hashing lets go of Python's lock


def seal(checkpoints: Path) -> None:
    """Seals the checkpoint that is about to be renamed in this folder."""
    for folder in checkpoints.glob("*.orbax-checkpoint-tmp*"):
        names = [path.relative_to(folder).as_posix() for path in _files(folder)]
        with ThreadPoolExecutor(THREADS) as pool:
            digests = pool.map(_digest, (folder / name for name in names))
            write_json(folder / SEAL, {"sha256": dict(zip(names, digests, strict=True))})


def damage(folder: Path, *, only: tuple[str, ...] = ()) -> str | None:
    """What is wrong with a checkpoint, or with `only` some items of it, such as "params", in a few words; None: all is
    as it was written, or it was never sealed."""
    if not (folder / SEAL).is_file():
        return None
    try:
        sealed: dict[str, str] = read_json(folder / SEAL)["sha256"]
    except (UserError, KeyError):
        return f"{SEAL} cannot be read"
    wanted = {name: digest for name, digest in sealed.items() if not only or name.split("/")[0] in (*only, name)}
    for name in wanted:
        if not (folder / name).is_file():
            return f"{name} is missing"
    with ThreadPoolExecutor(THREADS) as pool:
        for name, digest in zip(wanted, pool.map(_digest, (folder / name for name in wanted)), strict=True):
            if digest != wanted[name]:
                return f"{name} is not as it was written"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    """SHA-256 of a file; of Orbax's own, without its times."""
    if path.name == ORBAX:
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            return "no JSON"
        timeless = {key: value for key, value in content.items() if not key.endswith("_nsecs")}
        return hashlib.sha256(json.dumps(timeless).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
