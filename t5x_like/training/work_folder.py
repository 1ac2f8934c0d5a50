# SPDX-License-Identifier: Apache-2.0
"""The run folder on a disk, or in a bucket: gs://BUCKET/RUN.

An object store has no appending, no renaming and no locks, and the files of a run folder want all three. So a run there
writes into a local copy under $T5X_LIKE_CACHE/run_folders, a new one at every start: the bucket is the truth. Changed
files are sent every half minute, before every checkpoint, and at the end, summary.json last. Checkpoints go there
directly, by Orbax, from every host. What the bucket has is fetched at the start, so a run goes on from any machine.

Two programs that train into one folder of a bucket are not told apart. file:///FOLDER is treated as a bucket, too.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etils import epath

from t5x_like.data.cache import cache_root
from t5x_like.errors import UserError
from t5x_like.files import make_folder
from t5x_like.training.one_writer import is_writer

PUSH_SECONDS = 30.0
PATIENCE = (1.0, 4.0)  # seconds until a bucket that could not be written is tried again, and again
REMOTE = ("gs://", "file://")
_LAST = "summary.json"  # says how the run ended, so it comes after all else


class WorkFolder:
    """A run folder, on a disk or in a bucket, whose files lie in `local`, Orbax's in `checkpoints`."""

    def __init__(self, place: str | Path):
        self.remote: Any = None
        self.local = Path(place)
        self.name = str(place).rstrip("/").rpartition("/")[2]
        self.checkpoints: Any = self.local / "checkpoints"
        self._sent: dict[Path, tuple[int, int]] = {}
        self._sending = threading.Lock()
        if str(place).startswith(REMOTE):
            self.remote = epath.Path(str(place).removeprefix("file://"))
            self.checkpoints = self.remote / "checkpoints"
            parent = cache_root() / "run_folders"
            make_folder(parent)
            self.local = Path(tempfile.mkdtemp(dir=parent, prefix=f"{self.remote.name}-"))
            self.pull()

    def pull(self) -> None:
        """Fetches the files that the bucket has and the local copy has not; folders stay there. Raises UserError: the
        bucket cannot be read."""
        if self.remote is None:
            return
        with self._in_the_bucket():
            if not self.remote.exists():
                return
            for path in self.remote.iterdir():
                copy = self.local / path.name
                if not copy.exists() and not path.is_dir():
                    copy.write_bytes(path.read_bytes())
                    self._sent[copy] = _stamp(copy)

    def push(self) -> None:
        """Sends what changed in the local copy. Raises UserError: the bucket cannot be written, nor a few seconds
        later."""
        if self.remote is None or not is_writer():
            return
        for wait in PATIENCE:
            try:
                return self._send()
            except UserError:
                time.sleep(wait)
        self._send()

    def _send(self) -> None:
        with self._sending, self._in_the_bucket():
            files = [path for path in self.local.rglob("*") if path.is_file() and not path.name.startswith(".")]
            for path in sorted(files, key=lambda path: path.name == _LAST):
                stamp = _stamp(path)
                if self._sent.get(path) != stamp:
                    target = self.remote / path.relative_to(self.local).as_posix()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(path.read_bytes())
                    self._sent[path] = stamp

    @contextmanager
    def _in_the_bucket(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"{self.remote}: reading a bucket needs gcsfs: pip install gcsfs ({error})") from None
        except Exception as error:  # whatever the store's client raises: it is not ours
            raise UserError(f"{self.remote}: {type(error).__name__}: {error}") from error


@contextmanager
def work_folder(place: str | Path, seconds: float = PUSH_SECONDS) -> Iterator[WorkFolder]:
    """Opens a run folder; one in a bucket is kept up to date every so many seconds, and at the end. Raises UserError:
    the bucket cannot be read or written."""
    folder = WorkFolder(place)
    if folder.remote is None:
        yield folder
        return
    done = threading.Event()

    def keep_sending() -> None:
        while not done.wait(seconds):
            try:
                folder.push()
            except UserError as error:  # the next time may succeed; at the end it must
                print(f"warning: {error}", flush=True)

    sender = threading.Thread(target=keep_sending, name="run folder", daemon=True)
    sender.start()
    try:
        yield folder
    finally:
        done.set()
        sender.join()
        folder.push()
        shutil.rmtree(folder.local, ignore_errors=True)  # a copy that could not be sent stays


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
