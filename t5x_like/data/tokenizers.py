# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: text to token ids and back, without loss.

Both kinds work on UTF-8 bytes, so every text has tokens and `decode(encode(text)) == text`. Token 0 is the separator:
it starts every document, no text encodes to it, and it decodes to nothing. The others each stand for one byte string.
"""

import contextlib
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers as huggingface

from t5x_like.config import BPETokenizerConfig, ByteTokenizerConfig, TokenizerConfig
from t5x_like.errors import UserError
from t5x_like.files import write_text

SEPARATOR = 0
_SEPARATOR_NAME = "<|endoftext|>"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
_PARALLELISM = "TOKENIZERS_PARALLELISM"
_USER_DECIDED = _PARALLELISM in os.environ


class Tokenizer(ABC):
    """What a token stands for: `token_bytes[i]` is the byte string of token i, empty for the separator."""

    separator = SEPARATOR

    def __init__(self, token_bytes: Sequence[bytes]):
        self.token_bytes = tuple(token_bytes)

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal digits that differ for tokenizers that encode some text differently."""

    @abstractmethod
    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Yields the tokens of each text, uint16 [tokens], without separators.

        Raises:
          UserError: a text with lone surrogates, which UTF-8 cannot hold.
        """

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json; `load_tokenizer` reads it."""

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of one text, uint16 [tokens], without a separator."""
        return next(self.encode_documents([text]))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Joins the byte strings of the tokens.

        A token may end within a character, so text that arrives token by token wants an incremental decoder over these
        bytes (`codecs.getincrementaldecoder("utf-8")("replace")`). Ids outside the vocabulary, which a model with a
        rounded-up table can produce, become U+FFFD.
        """
        count = self.vocab_size
        return b"".join(self.token_bytes[i] if 0 <= i < count else _REPLACEMENT for i in map(int, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of the tokens; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


class ByteTokenizer(Tokenizer):
    """Token b + 1 is byte b: a vocabulary of 257."""

    def __init__(self) -> None:
        super().__init__([b"", *(bytes([byte]) for byte in range(256))])

    @property
    def fingerprint(self) -> str:
        return "byte"

    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            yield np.frombuffer(_utf8(text), np.uint8).astype(np.uint16) + np.uint16(1)

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, json.dumps({"format": 1, "kind": "byte"}) + "\n")


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2, Radford et al. 2019).

    Text is first cut by GPT-2's pattern (words with their leading space, numbers, punctuation, white space); merges
    never cross a cut. It is not normalised in any way. tokenizer.json is the `tokenizers` library's own format.
    """

    def __init__(self, model: huggingface.Tokenizer):
        model.encode_special_tokens = True  # a text that spells the separator's name gets ordinary tokens
        self._model = model
        to_byte = {character: byte for byte, character in enumerate(_byte_characters())}
        names = sorted(model.get_vocab(), key=model.get_vocab().__getitem__)
        super().__init__([b"", *(bytes(to_byte[character] for character in name) for name in names[1:])])

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{huggingface.__version__}\n{self._model.to_str()}".encode()).hexdigest()[:16]

    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            _utf8(text)
        for start in range(0, len(texts), 64):  # the library's records are many times larger than the tokens
            with _threads():
                encodings = self._model.encode_batch_fast(list(texts[start : start + 64]), add_special_tokens=False)
            yield from (np.array(encoding.ids, np.uint16) for encoding in encodings)

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, self._model.to_str(pretty=True) + "\n")


def train_bpe(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learns the merges of a byte-level BPE: always the most frequent pair next, ties by the older tokens.

    The result depends on the texts (not on their order) and the size alone.

    Raises:
      UserError: the texts have too few different pairs for `vocab_size` tokens.
    """
    model = huggingface.Tokenizer(huggingface.models.BPE())
    model.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = huggingface.decoders.ByteLevel()
    trainer = huggingface.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_SEPARATOR_NAME],
        initial_alphabet=huggingface.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with _threads():
        model.train_from_iterator(texts, trainer)
    if model.get_vocab_size() != vocab_size:
        raise UserError(
            f"data.tokenizer.vocab_size={vocab_size}: the training documents yield only {model.get_vocab_size()} "
            f"tokens; accepted: 257 to {model.get_vocab_size()}, or more text"
        )
    return BPETokenizer(model)


def build_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Returns the configured tokenizer, trained on `texts` where it has something to learn."""
    if isinstance(config, ByteTokenizerConfig):
        return ByteTokenizer()
    if isinstance(config, BPETokenizerConfig):
        return train_bpe(texts, config.vocab_size)
    raise TypeError(f"no tokenizer for {config!r}")


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads the tokenizer.json that `Tokenizer.save` wrote.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        if json.loads(text).get("kind") == "byte":
            return ByteTokenizer()
        model = huggingface.Tokenizer.from_str(text)
        if model.token_to_id(_SEPARATOR_NAME) != SEPARATOR:
            raise ValueError(f"token {SEPARATOR} is not {_SEPARATOR_NAME}")
        return BPETokenizer(model)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a tokenizer.json that t5x_like wrote") from None
    except Exception as error:  # the library raises bare Exception for what it cannot parse
        raise UserError(f"{path}: not a tokenizer.json that t5x_like wrote ({error})") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text: character {error.start} is the lone surrogate {text[error.start]!a}; expected valid Unicode"
        ) from None


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level BPE's vocabulary.

    Printable Latin-1 characters stand for themselves; the other bytes take, in order, the code points from 256 on.
    """
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in set(own) else chr(next(others)) for byte in range(256)]


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Lets the library use threads (as many as this process may run on) for one call, unless the user has decided.

    Afterwards the switch stays at "false": left unset, a later fork of this process would print a warning.
    """
    if _USER_DECIDED:
        yield
        return
    os.environ[_PARALLELISM] = "true"
    try:
        yield
    finally:
        os.environ[_PARALLELISM] = "false"
