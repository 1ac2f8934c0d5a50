# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or absent: written under a temporary name, then renamed."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from t5x_like.errors import UserError

FORMAT = 1  # of our JSON files; raised when what they hold is to be read in another way


def make_folder(path: str | os.PathLike[str], flag: str = "--workdir") -> Path:
    """Makes a folder that was named by a flag, and its parents, where they are missing. Raises UserError: a file is in
    the way, or the user may not write there."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "is a file, not a folder" if path.is_file() else f"cannot be made: {error.strerror}"
        raise UserError(f"{path}: {why}; choose another {flag}") from error
    return path


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` atomically; the folder must exist."""
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # one that tells of a full disk names no file
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` atomically as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Writes `content` to `path` atomically as JSON with its "format" first; infinities and NaN are refused."""
    write_text(path, json.dumps({"format": FORMAT, **content}, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads one JSON object. Raises UserError: the file cannot be read, holds something else, or was written by a newer
    version of this program."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object")
    if isinstance(written := content.get("format"), int) and written > FORMAT:
        raise UserError(
            f"{path}: is of format {written}, of a newer version of t5x_like; accepted: up to {FORMAT}; update t5x_like"
        )
    return content
