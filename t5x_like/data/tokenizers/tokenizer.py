# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer is, and the one that needs no training: bytes.

Token 0 pads, separates documents and starts what a decoder writes, unless a vocabulary that was read from a file has
other tokens for that. No text encodes to a special token, and special tokens decode to nothing.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from t5x_like.errors import UserError
from t5x_like.files import write_text

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class Tokenizer(ABC):
    """Token ids for text.

    Attributes:
      token_bytes: what a token stands for: `token_bytes[i]` is the byte string of token i, empty for specials.
      specials: {role: token} of those among pad, bos, eos, unk, mask, cls, sep and fim_* that it has.
      sentinels: tokens that stand for spans, in the order in which they are used.
      separator: put before every document of a stream; it also ends a generated text.
      dtype: of ids, uint16 where the vocabulary allows.
    """

    def __init__(self, token_bytes: Sequence[bytes], specials: Mapping[str, int], sentinels: Sequence[int] = ()):
        self.token_bytes = tuple(token_bytes)
        self.specials = dict(specials)
        self.sentinels = tuple(sentinels)
        self.separator = specials.get("eos", specials.get("sep", specials.get("pad", 0)))
        self.dtype = np.dtype(np.uint16 if len(self.token_bytes) <= 2**16 else np.uint32)

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal digits that differ for tokenizers that encode some text differently."""

    @abstractmethod
    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Yields the tokens of each text, [tokens], without separators. Raises UserError: a text with lone surrogates,
        which UTF-8 cannot hold."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json; `load_tokenizer` reads it."""

    @property
    def word_starts(self) -> np.ndarray:
        """Whether a token begins a word, bool [vocab_size]: where it begins with white space, or after none."""
        return np.array([not piece or piece[:1].isspace() for piece in self.token_bytes])

    def needs(self, roles: Sequence[str], what: str, sentinels: int = 0) -> dict[str, int]:
        """The tokens of these roles. Raises UserError: it lacks one, or has fewer sentinels; `what` says what needs
        them."""
        if missing := [role for role in roles if role not in self.specials]:
            given = f"has no token for {', '.join(missing)}, which {what} needs"
            raise UserError(f"data.tokenizer: {given}; accepted: specials={missing}, or a kind that has them")
        if len(self.sentinels) < sentinels:
            given = f"{len(self.sentinels)} are fewer than the {sentinels} spans of {what}"
            raise UserError(f"data.tokenizer.sentinels: {given}; accepted: {sentinels} or more")
        return {role: self.specials[role] for role in roles}

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of one text, [tokens], without a separator."""
        return next(self.encode_documents([text]))

    def encode_with_ends(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of one text that they keep, and how many characters of it begin before the end of each."""
        tokens, starts = self.encode(text), np.cumsum([0, *(len(character.encode()) for character in text)])
        ends = np.cumsum([len(self.token_bytes[token]) for token in tokens], dtype=np.int64)
        if not self.decode_bytes(tokens).endswith(text.encode()):
            raise UserError(f"data.tokenizer: does not keep {text[:40]!r} as it is, so nothing in it can be found")
        return tokens, np.searchsorted(starts[:-1], ends - ends[-1:] + starts[-1])  # some put a space before it

    def encode_marked(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """As `encode_with_ends`, of a text in which special tokens' names stand for them, as a chat template writes
        it."""
        return self.encode_with_ends(text)

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
    """Token b + 1 is byte b: a vocabulary of 257; then specials, then sentinels."""

    def __init__(self, specials: Sequence[str] = (), sentinels: int = 0):
        named = {"pad": 0, "eos": 0} | {role: 257 + i for i, role in enumerate(specials)}
        last = 257 + len(specials) + sentinels
        pieces = [b"", *(bytes([byte]) for byte in range(256)), *[b""] * (last - 257)]
        super().__init__(pieces, named, [last - 1 - i for i in range(sentinels)])
        self._content = {"format": 1, "kind": "byte"}
        if specials or sentinels:
            self._content |= {"specials": list(specials), "sentinels": sentinels}

    @property
    def fingerprint(self) -> str:
        return "byte" if len(self._content) == 2 else json.dumps(self._content, sort_keys=True)

    def encode_documents(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            yield np.frombuffer(utf8(text), np.uint8).astype(self.dtype) + self.dtype.type(1)

    def save(self, path: str | os.PathLike[str]) -> None:
        write_text(path, json.dumps(self._content) + "\n")


def utf8(text: str) -> bytes:
    """The bytes of a text. Raises UserError: it holds a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text: character {error.start} is the lone surrogate {text[error.start]!a}; expected valid Unicode"
        ) from None
