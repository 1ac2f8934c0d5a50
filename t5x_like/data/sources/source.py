# SPDX-License-Identifier: Apache-2.0
"""What a source is."""

import glob
import importlib
import os
from pathlib import Path
from typing import Any, Protocol

from t5x_like.config.data.sources import SourceConfig
from t5x_like.errors import UserError

Example = dict[str, Any]  # text, a number, an array or a list for every column

# Where each kind is defined.
_MODULES = {
    "python_library": "python_code",
    "python_functions": "python_code",
    "text_files": "files",
    "json_lines": "files",
    "parquet": "records",
    "array_record": "records",
    "tfds": "records",
    "image_folders": "images",
    "digits": "images",
}


class Source(Protocol):
    """Examples by number.

    Attributes:
      columns: what an example has.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example:
        """Returns an example.

        Raises:
          BadExample: it cannot be read.
        """
        ...


class BadExample(Exception):
    """An example that cannot be read: which, and why, in one line."""


def build_source(config: SourceConfig) -> Source:
    """Returns the source that a config describes.

    Raises:
      UserError: nothing is there, or it is no such thing.
    """
    module = importlib.import_module(f"t5x_like.data.sources.{_MODULES[config.kind]}")
    return module.SOURCES[config.kind](config)


def matching_files(pattern: str) -> list[str]:
    """Files that match a glob pattern, sorted; in a bucket or another remote place where it begins with "name://".

    Raises:
      UserError: none does.
    """
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
    """Returns a file's content.

    Raises:
      UserError: it cannot be read.
    """
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as file:
                return file.read()
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def decoded(content: bytes, where: str) -> str:
    """UTF-8 text.

    Raises:
      BadExample: it is something else.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BadExample(
            f"{where}: not UTF-8 text (byte 0x{content[error.start]:02x} at offset {error.start}); convert it to UTF-8"
        ) from None
