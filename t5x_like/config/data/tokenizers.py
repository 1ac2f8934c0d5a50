# SPDX-License-Identifier: Apache-2.0
"""The kinds of tokenizer."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from t5x_like.config.checks import Checked, WholeNumber, given
from t5x_like.strict import FieldError

FIM_ROLES = ("fim_prefix", "fim_suffix", "fim_middle")  # what stands before each part of a text with a gap


@dataclass(frozen=True)
class TokenizerConfig(Checked):
    """Any tokenizer; `vocab_size` counts all its tokens."""

    kind: str = ""

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        raise NotImplementedError

    def special(self, role: str) -> int | None:
        """The token of a role that was added; None: there is none."""
        raise NotImplementedError


@dataclass(frozen=True)
class _WithSpecials(TokenizerConfig):
    first_special: ClassVar[int] = 1

    sentinels: WholeNumber = 0  # tokens that stand for spans, the last ids of the vocabulary; T5 has 100
    specials: tuple[str, ...] = ()  # further roles that some token has, such as "mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        for role in self.specials:
            if role not in (roles := ("mask", "cls", "sep", "image", *FIM_ROLES, "fim_end")):
                raise FieldError("specials", f"{role!r} is no role that can be added; accepted: {', '.join(roles)}")

    def special(self, role: str) -> int | None:
        return self.first_special + self.specials.index(role) if role in self.specials else None


@dataclass(frozen=True)
class ByteTokenizerConfig(_WithSpecials):
    """Every UTF-8 byte is a token; one more separates documents."""

    first_special: ClassVar[int] = 257

    kind: Literal["byte"] = "byte"

    @property
    def tokens(self) -> int:
        return 257 + len(self.specials) + self.sentinels


@dataclass(frozen=True)
class _Trained(_WithSpecials):
    vocab_size: int = 1024  # of all tokens, specials and sentinels among them

    @property
    def tokens(self) -> int:
        return self.vocab_size


@dataclass(frozen=True)
class BPETokenizerConfig(_Trained):
    """Byte-level byte-pair encoding (Sennrich et al. 2016) trained on the training documents."""

    kind: Literal["bpe"] = "bpe"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 257 <= self.vocab_size <= 2**31:
            raise FieldError("vocab_size", f"{self.vocab_size} is below 257 (bytes and the separator)")


@dataclass(frozen=True)
class WordPieceTokenizerConfig(_Trained):
    """BERT's WordPiece (Devlin et al. 2019), with [PAD] [UNK] [CLS] [SEP] [MASK]. What it decodes to has lost case,
    accents and white space."""

    first_special: ClassVar[int] = 5

    kind: Literal["wordpiece"] = "wordpiece"
    vocab_size: int = 4096
    lowercase: bool = True


@dataclass(frozen=True)
class UnigramTokenizerConfig(_Trained):
    """A unigram language model's pieces (Kudo 2018), as SentencePiece and T5 have them; what no piece covers is
    spelt in bytes."""

    first_special: ClassVar[int] = 3

    kind: Literal["unigram"] = "unigram"
    vocab_size: int = 4096


@dataclass(frozen=True)
class FileTokenizerConfig(TokenizerConfig):
    """A tokenizer.json of the `tokenizers` library, or a SentencePiece .model."""

    kind: Literal["file"] = "file"
    path: Annotated[str, given("a tokenizer.json or a SentencePiece .model")] = ""

    @property
    def tokens(self) -> int:
        from t5x_like.data.tokenizers import load_tokenizer

        return load_tokenizer(self.path).vocab_size

    def special(self, role: str) -> int | None:
        from t5x_like.data.tokenizers import load_tokenizer

        return load_tokenizer(self.path).specials.get(role)
