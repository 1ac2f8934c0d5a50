# SPDX-License-Identifier: Apache-2.0
"""What a source is."""

import glob
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.errors import UserError

Example = dict[str, Any]  # text, a number, an array or a list for every column


class Source(ABC):
    """Examples by number."""

    columns: tuple[str, ...]  # what an example has
    items: Sequence[Any]  # what there is to make each example of

    def __len__(self) -> int:
        return len(self.items)

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Returns an example. Raises BadExample: it cannot be read."""

    def place(self, index: int) -> str:
        """What an example is called in an error."""
        return f"example {index}"


class BadExample(Exception):
    """An example that cannot be read: which, and why, in one line."""


def matching_files(pattern: str) -> list[str]:
    """Files that match a glob pattern, sorted; in a bucket or another remote place where it begins with "name://".
    Raises UserError: none does."""
    given = f"data.source.pattern={pattern!r}"
    if "://" in pattern:
        import fsspec

        try:
            found = [f"{file.fs.unstrip_protocol(file.path)}" for file in fsspec.open_files(pattern, "rb")]
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{given}: cannot be listed ({error})") from None
        paths = files = sorted(found)
    else:
        paths = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        files = [path for path in paths if os.path.isfile(path)]
    if not files:
        what = f"only folders match ({paths[0]})" if paths else "no file matches"
        raise UserError(
            f"{given}: {what}, seen from {Path.cwd()}; expected a glob pattern of files such as 'books/*.txt'"
        )
    return files


def read_file(path: str) -> bytes:
    """Returns a file's content. Raises UserError: it cannot be read."""
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as file:
                return file.read()
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def decoded(content: bytes, where: str) -> str:
    """UTF-8 text. Raises BadExample: it is something else."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadExample(
            f"{where}: not UTF-8 text (byte 0x{content[error.start]:02x} at offset {error.start}); convert it to UTF-8"
        ) from None


def json_object(content: bytes, where: str, in_line: bool = True) -> Example:
    """The fields of a JSON object; `in_line` says whether a mistake is told its column. Raises BadExample: it is
    something else."""
    try:
        example = json.loads(decoded(content, where))
    except json.JSONDecodeError as error:
        place = f" at column {error.colno}" if in_line else ""
        raise BadExample(f"{where}: no JSON ({error.msg}{place}); expected an object") from None
    if not isinstance(example, dict):
        raise BadExample(f"{where}: a JSON {type(example).__name__}; expected an object")
    return example


def decoded_image(file: Any, name: str | Path, transparent: Sequence[str] = ()) -> np.ndarray:
    """Pixels of an image file, RGBA where its mode is one of `transparent`, else RGB. Raises BadExample: it is
    something else; `name` says which."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGBA" if image.mode in transparent else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadExample(f"{name}: does not decode as an image ({error})") from None
