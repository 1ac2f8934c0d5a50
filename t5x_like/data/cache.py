# SPDX-License-Identifier: Apache-2.0
"""Tokenised text on disk: a corpus is tokenised once, then memory-mapped.

    CACHE/text-HASH/
      train.npy, held_out.npy                  the token streams, uint16
      train_starts.npy, held_out_starts.npy    where their documents begin, int64
      tokenizer.json
      meta.json                                counts and the fingerprint of the tokens

HASH covers everything the folder depends on, so a folder is never stale. It is built under a temporary name and then
renamed: a build that is killed leaves nothing that a later run would read, and of two builds at once the first to
finish stays.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as huggingface

from t5x_like.config import PythonLibraryConfig, TextFilesConfig
from t5x_like.data.corpus import Corpus, Document
from t5x_like.data.packing import pack
from t5x_like.data.tokenizers import Tokenizer, build_tokenizer, load_tokenizer
from t5x_like.errors import UserError
from t5x_like.files import read_json, write_json
from t5x_like.strict import to_dict

_FORMAT = 1  # raise it when the same corpus and tokenizer config give other tokens
_ABANDONED_SECONDS = 24 * 3600.0
_TEXT_BYTES_AT_ONCE = 2**26
_EMPTY_NPY_BYTES = 128  # a header and nothing else


@dataclass(frozen=True)
class TokenisedText:
    """Both streams of a corpus (`packing.pack`), the tokenizer, and meta.json."""

    tokenizer: Tokenizer
    train: np.ndarray
    train_starts: np.ndarray
    held_out: np.ndarray
    held_out_starts: np.ndarray
    meta: dict[str, Any]


def cache_root() -> Path:
    """Returns `$T5X_LIKE_CACHE`, else ~/.cache/t5x_like."""
    given = os.environ.get("T5X_LIKE_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "t5x_like"


def tokenised(
    config: PythonLibraryConfig | TextFilesConfig,
    corpus: Corpus,
    cache_dir: Path | None = None,
    tokenizer: Tokenizer | None = None,
) -> TokenisedText:
    """Returns the corpus's tokens out of the cache, having put them there if need be.

    With a `tokenizer` they are its tokens; else the config says which one is trained on the training documents.

    Raises:
      UserError: the cache cannot be written or is damaged, or the corpus is too small for the vocabulary.
    """
    root = Path(cache_dir) if cache_dir is not None else cache_root()
    folder = root / f"text-{_key(config, corpus, tokenizer)}"
    if not folder.exists():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(root)
            _build(config, corpus, folder, tokenizer)
        except OSError as error:
            raise UserError(
                f"{root}: the cache for tokenised text cannot be written ({error.strerror}); set T5X_LIKE_CACHE to a "
                "folder that can"
            ) from None
    return _load(folder)


def _key(config: PythonLibraryConfig | TextFilesConfig, corpus: Corpus, tokenizer: Tokenizer | None) -> str:
    content = {
        "format": _FORMAT,
        "corpus": corpus.fingerprint,
        "held_out_fraction": config.held_out_fraction,
        "tokenizer": to_dict(config.tokenizer),
        "tokenizers": huggingface.__version__ if config.tokenizer.kind == "bpe" else None,
    }
    if tokenizer is not None:
        content["tokenizer"] = tokenizer.fingerprint
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _build(
    config: PythonLibraryConfig | TextFilesConfig, corpus: Corpus, folder: Path, tokenizer: Tokenizer | None
) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        tokenizer = tokenizer or build_tokenizer(config.tokenizer, (document.read() for document in corpus.train))
        _write(tokenizer, corpus, temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise  # otherwise another process was faster, with the same content
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(tokenizer: Tokenizer, corpus: Corpus, folder: Path) -> None:
    tokenizer.save(folder / "tokenizer.json")
    fingerprint = hashlib.sha256()
    meta: dict[str, Any] = {"corpus_fingerprint": corpus.fingerprint}
    for split, documents in (("train", corpus.train), ("held_out", corpus.held_out)):
        stream, starts = pack(_encode(tokenizer, documents), tokenizer.separator)
        fingerprint.update(stream.astype("<u2").tobytes())
        np.save(folder / f"{split}.npy", stream)
        np.save(folder / f"{split}_starts.npy", starts)
        meta[f"{split}_files"] = len(documents)
        meta[f"{split}_bytes"] = sum(document.size for document in documents)
        meta[f"{split}_tokens"] = len(stream)
    meta["fingerprint"] = fingerprint.hexdigest()[:16]
    write_json(folder / "meta.json", meta)


def _encode(tokenizer: Tokenizer, documents: tuple[Document, ...]) -> list[np.ndarray]:
    """Returns the tokens of every document, holding a part of the text in memory at a time."""
    tokens: list[np.ndarray] = []
    texts: list[str] = []
    held = 0
    for document in documents:
        texts.append(document.read())
        held += document.size
        if held >= _TEXT_BYTES_AT_ONCE:
            tokens += tokenizer.encode_documents(texts)
            texts, held = [], 0
    return tokens + list(tokenizer.encode_documents(texts))


def _load(folder: Path) -> TokenisedText:
    def array(name: str) -> np.ndarray:
        path = folder / f"{name}.npy"
        empty = path.stat().st_size <= _EMPTY_NPY_BYTES  # which cannot be mapped: all documents are held out
        return np.load(path, mmap_mode=None if empty else "r").view(np.ndarray)

    try:
        text = TokenisedText(
            tokenizer=load_tokenizer(folder / "tokenizer.json"),
            train=array("train"),
            train_starts=array("train_starts"),
            held_out=array("held_out"),
            held_out_starts=array("held_out_starts"),
            meta=read_json(folder / "meta.json"),
        )
        if (len(text.train), len(text.held_out)) != (text.meta["train_tokens"], text.meta["held_out_tokens"]):
            raise ValueError("the streams are not as long as meta.json says")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete the folder and start again") from None
    return text


def _remove_abandoned(root: Path) -> None:
    """Deletes what builds left that were killed; a day is longer than any build."""
    for path in root.glob(".text-*"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            continue  # its owner has just renamed it
