# SPDX-License-Identifier: Apache-2.0
"""Tokenised examples on disk: a source is tokenised once, then memory-mapped.

    CACHE/text-HASH/
      train/COLUMN.npy, held_out/COLUMN.npy                  streams of tokens, each example behind a separator
      train/COLUMN_starts.npy, held_out/COLUMN_starts.npy    where their separators are, int64
      tokenizer.json
      meta.json                                              counts and the fingerprint of the tokens

HASH covers everything the folder depends on, so a folder is never stale. It is built under a temporary name and then
renamed: a build that is killed leaves nothing that a later run would read, and of two builds at once the first to
finish stays.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as huggingface

from t5x_like.config.data.tasks import TextTaskConfig
from t5x_like.data.examples import Entry, Examples
from t5x_like.data.packing import Ragged, pack
from t5x_like.data.sources import Example
from t5x_like.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer
from t5x_like.errors import UserError
from t5x_like.files import read_json, write_json
from t5x_like.strict import to_dict

_FORMAT = 3  # raise it when the same examples and tokenizer config give other tokens
_ABANDONED_SECONDS = 24 * 3600.0
_TEXT_BYTES_AT_ONCE = 2**26
_EMPTY_NPY_BYTES = 128  # a header and nothing else
SPLITS = ("train", "held_out")

# From a tokenizer and examples to an array for every column and example.
Encode = Callable[[Tokenizer, Sequence[Example]], Iterator[Mapping[str, np.ndarray]]]


def remembered(
    name: str, fields: Sequence[str], compute: Callable[[], Sequence[Any]], cache_dir: Path | None = None
) -> list[Any]:
    """Returns the fields of CACHE/NAME.json, having computed them if need be.

    A cache that cannot be read or written costs the time to compute them again, and nothing else.
    """
    path = (cache_dir or cache_root()) / f"{name}.json"
    try:
        there = read_json(path)
        return [there[field] for field in fields]
    except (UserError, KeyError):
        found = dict(zip(fields, compute(), strict=True))
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return list(found.values())


@dataclass(frozen=True)
class Tokenised:
    """Both splits of a task's examples, the tokenizer, and meta.json."""

    tokenizer: Tokenizer
    train: dict[str, Ragged]
    held_out: dict[str, Ragged]
    meta: dict[str, Any]


def cache_root() -> Path:
    """Returns `$T5X_LIKE_CACHE`, else ~/.cache/t5x_like."""
    given = os.environ.get("T5X_LIKE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "t5x_like"


def tokenised(
    config: TextTaskConfig,
    examples: Examples,
    encode: Encode,
    how: Mapping[str, Any],
    cache_dir: Path | None = None,
    tokenizer: Tokenizer | None = None,
) -> Tokenised:
    """Returns the tokens of examples out of the cache, having put them there if need be.

    Args:
      how: names what `encode` does, beside the tokenizer and the examples.
      cache_dir: where the cache is; None: `cache_root()`.
      tokenizer: None: the config says which one, trained on the training examples.

    Raises:
      UserError: the cache cannot be written or is damaged, or there is too little text for the vocabulary.
    """
    root = cache_dir or cache_root()
    folder = root / f"text-{_key(config, examples, how, tokenizer)}"
    if not folder.exists():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(root)
            _build(config, examples, encode, folder, tokenizer)
        except OSError as error:
            raise UserError(
                f"{root}: the cache for tokenised text cannot be written ({error.strerror}); set T5X_LIKE_CACHE to a "
                "folder that can"
            ) from None
    found = _load(folder)
    return replace(found, meta=found.meta | examples.what_was_skipped)


def _key(config: TextTaskConfig, examples: Examples, how: Mapping[str, Any], tokenizer: Tokenizer | None) -> str:
    content = {
        "format": _FORMAT,
        "corpus": examples.fingerprint,
        "held_out": [config.held_out_fraction, len(examples.held_out)],
        "how": dict(how),
        "tokenizer": to_dict(config.tokenizer) if tokenizer is None else tokenizer.fingerprint,
        "tokenizers": huggingface.__version__,
    }
    if config.tokenizer.kind == "file" and tokenizer is None:
        content["tokenizer"] = build_tokenizer(config.tokenizer, ()).fingerprint
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _build(
    config: TextTaskConfig, examples: Examples, encode: Encode, folder: Path, tokenizer: Tokenizer | None
) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        texts = Texts(examples.train, config.columns)
        first = (examples.train or examples.held_out)[0].read()
        by_ids = [name for name, kind in config.reads.items() if kind == "text or token ids"]
        ids = any(not isinstance(first[name], str) for name in by_ids)
        _write(tokenizer or build_tokenizer(config.tokenizer, texts), examples, encode, temporary, token_ids=ids)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise  # otherwise another process was faster, with the same content
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class Texts:
    """The texts of examples, to be read as often as it takes to learn from them."""

    entries: Sequence[Entry]
    columns: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        for example in (entry.read() for entry in self.entries):
            for value in (example[column] for column in self.columns):
                if isinstance(value, list) and all(isinstance(word, str) for word in value):
                    yield " ".join(value)
                elif isinstance(value, list) and all(isinstance(message, dict) for message in value):
                    yield "\n".join(f"{message['role']}\n{message['content']}" for message in value)
                elif not isinstance(value, list | np.ndarray):  # ids have no text
                    yield str(value)


def _write(tokenizer: Tokenizer, examples: Examples, encode: Encode, folder: Path, **more: Any) -> None:
    tokenizer.save(folder / "tokenizer.json")
    fingerprint = hashlib.sha256()
    meta: dict[str, Any] = {"corpus_fingerprint": examples.fingerprint, **more}
    for split in SPLITS if examples.train else SPLITS[::-1]:  # columns are seen on examples
        entries: tuple[Entry, ...] = getattr(examples, split)
        (folder / split).mkdir()
        rows = list(_encoded(tokenizer, entries, encode))
        columns, total = list(rows[0]) if rows else meta[f"{SPLITS[1]}_columns"], 0
        for column in columns:
            values = [row[column] for row in rows]
            ragged = pack(values, tokenizer.separator if not values or values[0].dtype == tokenizer.dtype else 0)
            fingerprint.update(ragged.stream.astype(ragged.stream.dtype.newbyteorder("<")).tobytes())
            np.save(folder / split / f"{column}.npy", ragged.stream)
            np.save(folder / split / f"{column}_starts.npy", ragged.starts)
            total += len(ragged.stream)
        meta[f"{split}_examples"] = len(entries)
        meta[f"{split}_bytes"] = sum(entry.size for entry in entries)
        meta[f"{split}_tokens"] = total
        meta[f"{split}_columns"] = columns
    meta["fingerprint"] = fingerprint.hexdigest()[:16]
    write_json(folder / "meta.json", meta)


def _encoded(tokenizer: Tokenizer, entries: tuple[Entry, ...], encode: Encode) -> Iterator[Mapping[str, np.ndarray]]:
    """Encodes every example, holding a part of the text in memory at a time."""
    held: list[Example] = []
    size = 0
    for entry in entries:
        held.append(entry.read())
        size += entry.size
        if size >= _TEXT_BYTES_AT_ONCE:
            yield from encode(tokenizer, held)
            held, size = [], 0
    yield from encode(tokenizer, held)


def _load(folder: Path) -> Tokenised:
    def array(split: str, name: str) -> np.ndarray:
        path = folder / split / f"{name}.npy"
        empty = path.stat().st_size <= _EMPTY_NPY_BYTES  # which cannot be mapped
        return np.load(path, mmap_mode=None if empty else "r").view(np.ndarray)

    try:
        meta = read_json(folder / "meta.json")
        splits = [
            {name: Ragged(array(split, name), array(split, f"{name}_starts")) for name in meta[f"{split}_columns"]}
            for split in SPLITS
        ]
        for split, columns in zip(SPLITS, splits, strict=True):
            if sum(len(ragged.stream) for ragged in columns.values()) != meta[f"{split}_tokens"]:
                raise ValueError(f"{split} has another length than meta.json says")
        return Tokenised(load_tokenizer(folder / "tokenizer.json"), splits[0], splits[1], meta)
    except (OSError, ValueError, KeyError, UserError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete the folder and start again") from None


def _remove_abandoned(root: Path) -> None:
    """Removes what builds left that were killed a day or more ago."""
    for folder in root.glob(".text-*"):
        try:
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # another process was faster
