# SPDX-License-Identifier: Apache-2.0
"""A corpus: the documents of a text source, without duplicates, split into training and held-out by their content.

Documents are ordered by the SHA-256 of their bytes. That order is as good as random, so a prefix is a fair sample; and
it makes everything downstream (the tokenizer, the token stream, every batch) a function of the set of contents alone:
renaming or moving files changes nothing, and the fingerprint names the stream exactly.
"""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from t5x_like.config import PythonLibraryConfig, TextFilesConfig
from t5x_like.errors import UserError

# Not the library itself: what pip installs, and tests, whose text repeats itself.
_SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True)
class Document:
    """One file: its path, the SHA-256 of its content in hexadecimal, and its size in bytes."""

    path: Path
    digest: str
    size: int

    def read(self) -> str:
        """Returns the text, byte for byte: no newline is translated.

        Raises:
          UserError: the file is no longer what it was when the corpus was listed.
        """
        content = _read(self.path)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise UserError(f"{self.path}: changed while the corpus was being read; start again")
        return content.decode()


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their digests; the held-out ones are those with the lowest."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @property
    def documents(self) -> tuple[Document, ...]:
        return self.held_out + self.train

    @property
    def num_bytes(self) -> int:
        return sum(document.size for document in self.documents)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits: the SHA-256 over the sorted digests."""
        digests = sorted(document.digest for document in self.documents)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def load_corpus(config: PythonLibraryConfig | TextFilesConfig) -> Corpus:
    """Lists, hashes and splits the documents of a text source.

    Empty files and second copies of a content are left out. A file is held out when its digest, read as a fraction of
    the largest one, is below `held_out_fraction`: it stays on its side when other files come and go. A corpus so small
    that one side would be empty gives that side the one file nearest to the boundary. At 1 all files are held out.

    Raises:
      UserError: no file, a file that cannot be read or is not UTF-8, or fewer than two different files.
    """
    if isinstance(config, TextFilesConfig):
        source = f"data.pattern={config.pattern!r}"
        paths = _matching_files(config.pattern)
    else:
        source = "data.kind='python_library'"
        paths = _library_files()
    documents = _documents(paths, skip_other_encodings=isinstance(config, PythonLibraryConfig))
    if config.held_out_fraction == 1 and documents:
        return Corpus(train=(), held_out=tuple(documents))
    if len(documents) < 2:
        raise UserError(
            f"{source}: {len(documents)} different non-empty file; a corpus needs at least 2, because whole files are "
            "held out (split a single long text into several files)"
        )
    boundary = config.held_out_fraction * 2**64
    held_out = sum(int(document.digest[:16], 16) < boundary for document in documents)
    held_out = min(max(held_out, 1), len(documents) - 1)
    return Corpus(train=tuple(documents[held_out:]), held_out=tuple(documents[:held_out]))


def _matching_files(pattern: str) -> list[Path]:
    paths = [Path(name) for name in glob.glob(os.path.expanduser(pattern), recursive=True)]
    files = [path for path in paths if path.is_file()]
    if not files:
        what = f"only folders match ({paths[0]})" if paths else "no file matches"
        raise UserError(
            f"data.pattern={pattern!r}: {what}, seen from {Path.cwd()}; expected a glob pattern of text files such as "
            "'books/**/*.txt'"
        )
    return files


def _library_files() -> list[Path]:
    """Every .py file under the running Python's standard library."""
    root = sysconfig.get_path("stdlib")
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    if not files:
        raise UserError(
            f"data.kind='python_library': this Python keeps no .py files under {root}; use data.kind='text_files'"
        )
    return files


def _documents(paths: Iterable[Path], skip_other_encodings: bool) -> list[Document]:
    """Returns one document per different non-empty content, in the order of the digests."""
    found: dict[str, Document] = {}
    for path in sorted(paths):
        content = _read(path)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            if skip_other_encodings:
                continue
            raise UserError(
                f"{path}: not UTF-8 text (byte 0x{content[error.start]:02x} at offset {error.start}); convert the file "
                "to UTF-8 or leave it out of data.pattern"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        if content:
            found.setdefault(digest, Document(path, digest, len(content)))
    return [found[digest] for digest in sorted(found)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
