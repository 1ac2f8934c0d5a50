# SPDX-License-Identifier: Apache-2.0
"""The run folder: what training writes and everything else reads."""

import errno
import fcntl
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from t5x_like.config import ModelConfig, RunConfig, identity
from t5x_like.config_files import run_from_json
from t5x_like.data.dataset import Dataset
from t5x_like.errors import UserError
from t5x_like.files import make_folder, read_json, write_json, write_text
from t5x_like.interop.hugging_face import config_of_folder, is_hf
from t5x_like.strict import to_dict
from t5x_like.versions import package_version

PACKAGES = ("t5x_like", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")

LOCK_PATIENCE = 60.0  # seconds to wait for another process to leave a run folder
LOCK_POLL = 0.2


def load_config(folder: Path) -> RunConfig:
    """Reads the config of an existing run folder; UserError where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: is not a run folder (it has no config.json)")
    return run_from_json(read_json(path))


def model_of(folder: Path) -> ModelConfig:
    """The config of the model of a run folder, or of Hugging Face's."""
    return config_of_folder(folder) if is_hf(folder) else load_config(folder).model


def check_folder(folder: Path, config: RunConfig) -> None:
    """Accepts a folder that belongs to the same run, or to none. Raises UserError: the folder belongs to another run,
    or is no run folder and not empty; nothing in it is touched."""
    path = folder / "config.json"
    if path.is_file():
        theirs, ours = (flatten_dict(identity(each), sep=".") for each in (load_config(folder), config))
        changed = [
            f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise UserError(f"{folder}: belongs to another run: {changed[0]}{more}; choose another --workdir")
        return
    if folder.is_file():
        raise UserError(f"{folder}: is a file; --workdir must name a folder")
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(f"{folder}: is not empty and is no run folder; choose another --workdir")


@contextmanager
def hold_folder(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Makes the folder and holds it for this process alone; the kernel lets go of it even when the process is killed.

    Another process that holds it is waited for, a while: it may be a worker that was told to stop and is still saving.
    Raises UserError: the folder cannot be made, or another process still holds it."""
    make_folder(folder)
    with (folder / ".lock").open("a") as file:
        patience = time.monotonic() + LOCK_PATIENCE
        told = False
        while not _lock(file.fileno()):
            if time.monotonic() > patience:
                raise UserError(f"{folder}: another process is training in it; stop that, or choose another --workdir")
            if not told:
                note(f"{folder}: waiting for another process that is training in it")
                told = True
            time.sleep(LOCK_POLL)
        yield


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks is no reason not to train
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
    return True


def open_folder(folder: Path, config: RunConfig) -> None:
    """Writes the config into a folder that is new; else checks it as `check_folder`."""
    check_folder(folder, config)
    if not (folder / "config.json").is_file():
        write_json(folder / "config.json", to_dict(config))


def check_unchanged(folder: Path, what: str, fingerprint: str) -> None:
    """Makes sure that a run goes on with the "data", or the "teacher", that it began with; UserError: environment.json
    names another one."""
    path = folder / "environment.json"
    began_with = read_json(path)[what]["fingerprint"] if path.is_file() else fingerprint
    if began_with != fingerprint:
        raise UserError(
            f"{folder}: the {what} has changed since this run began: its fingerprint is {began_with} there and "
            f"{fingerprint} now; restore the {what} or choose another --workdir"
        )


def write_environment(
    folder: Path, mesh: Any, peak: float | None, data: Dataset, sets: Mapping[str, Dataset], teacher: str | None
) -> None:
    """Writes environment.json: what ran, on what (`peak` FLOP/s, as MFU takes it), on which data and further sets, and
    the fingerprint of a teacher."""
    write_json(
        folder / "environment.json",
        {
            "packages": {name: package_version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device_kind": jax.devices()[0].device_kind,
            "device_count": jax.device_count(),
            "process_count": jax.process_count(),
            "peak_flops_per_second": peak,
            "mesh": dict(mesh.shape),
            "git_commit": _git_commit(),
            "data": data.description | {"fingerprint": data.fingerprint},
            "evaluation": {name: each.description | {"fingerprint": each.fingerprint} for name, each in sets.items()},
            **({} if teacher is None else {"teacher": {"fingerprint": teacher}}),
        },
    )


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values with None for numbers that are not finite, which strict JSON does not have."""
    return {key: None if isinstance(value, float) and value - value != 0 else value for key, value in values.items()}


class MetricsFile:
    """metrics.jsonl: one JSON object a line, each line flushed; lines past a resumed step are dropped."""

    def __init__(self, folder: Path, step: int):
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a")

    def write(self, line: dict[str, Any]) -> None:
        """Appends one line; what is not finite is written as null, so that the file stays strict JSON."""
        self._file.write(json.dumps(finite(line)) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; a last line that a kill left half written is ignored."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _git_commit() -> str | None:
    """The commit that this package runs from, "-dirty" after it where tracked files differ; None outside a checkout, or
    installed beneath some other project's (in its virtual environment, say)."""

    def git(*words: str) -> str:
        how: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        return str(subprocess.run(["git", *words], **how, check=True).stdout).strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
