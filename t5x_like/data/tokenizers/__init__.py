# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: text to token ids and back. What is learned from text is the `tokenizers` library's."""

import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers as huggingface

from t5x_like.data.tokenizers.learned import LearnedTokenizer, SentencePieceTokenizer, train
from t5x_like.data.tokenizers.tokenizer import ByteTokenizer, Tokenizer
from t5x_like.errors import UserError


def build_tokenizer(config: Any, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer of a config of `config.data.tokenizers`, trained on `texts` where it has what to learn."""
    if config.kind == "byte":
        return ByteTokenizer(config.specials, config.sentinels)
    if config.kind == "file":
        return load_tokenizer(config.path)
    return train(config, texts)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads a tokenizer.json, ours or anybody's, or a SentencePiece model. Raises UserError: there is no such file, or
    it holds something else."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: no such file ({error.strerror}); expected a tokenizer.json or a .model") from None
    return _loaded(content, str(path))


@lru_cache(maxsize=8)
def _loaded(content: bytes, path: str) -> Tokenizer:
    try:
        if not content.lstrip().startswith(b"{"):
            return SentencePieceTokenizer(content)
        fields = json.loads(content)
        if fields.get("kind") == "byte":
            return ByteTokenizer(fields.get("specials", ()), fields.get("sentinels", 0))
        return LearnedTokenizer(huggingface.Tokenizer.from_str(content.decode()))
    except UserError:
        raise
    except Exception as error:  # the libraries raise bare exceptions for what they cannot parse
        raise UserError(f"{path}: not a tokenizer.json or a SentencePiece model ({error})") from None
