# SPDX-License-Identifier: Apache-2.0
"""The kinds of data and of tokenizer."""

from dataclasses import dataclass, field
from typing import Literal

from t5x_like.config.checks import positive
from t5x_like.strict import FieldError


@dataclass(frozen=True)
class ByteTokenizerConfig:
    """Every UTF-8 byte is a token; one more separates documents."""

    kind: Literal["byte"] = "byte"

    @property
    def vocab_size(self) -> int:
        return 257


@dataclass(frozen=True)
class BPETokenizerConfig:
    """Byte-level byte-pair encoding (Sennrich et al. 2016) trained on the training documents."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = 1024

    def __post_init__(self) -> None:
        if not 257 <= self.vocab_size <= 2**16:
            raise FieldError("vocab_size", f"{self.vocab_size} is outside 257 (bytes and the separator) to 65536")


TokenizerConfig = ByteTokenizerConfig | BPETokenizerConfig


@dataclass(frozen=True)
class _Text:
    sequence_length: int = 128
    tokenizer: TokenizerConfig = field(default_factory=BPETokenizerConfig)
    held_out_fraction: float = 0.1  # of the files, chosen by the hash of their content; 1: all, in an evaluation set

    def __post_init__(self) -> None:
        positive(self, "sequence_length")
        if not 0 < self.held_out_fraction <= 1:
            raise FieldError("held_out_fraction", f"{self.held_out_fraction} is outside (0, 1]")

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size


@dataclass(frozen=True)
class PythonLibraryConfig(_Text):
    """The running Python's own standard library, source and docstrings, without its tests: real text, always there."""

    kind: Literal["python_library"] = "python_library"


@dataclass(frozen=True)
class TextFilesConfig(_Text):
    """Any text: every file that matches a glob pattern is one document."""

    kind: Literal["text_files"] = "text_files"
    pattern: str = ""  # e.g. "/data/books/**/*.txt"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern:
            raise FieldError("pattern", "is empty; give a glob pattern such as 'books/**/*.txt'")


@dataclass(frozen=True)
class MarkovConfig:
    """A Markov chain of order 1 whose entropy is known: transition logits of spectrum k^-spectrum_exponent."""

    kind: Literal["markov"] = "markov"
    sequence_length: int = 16
    num_symbols: int = 128
    spectrum_exponent: float = 0.75
    logit_scale: float = 1.515  # standard deviation of the transition logits; with the others: 3.887 nats per token
    process_seed: int = 0  # which chain; apart from the run's seed, which picks the windows

    def __post_init__(self) -> None:
        positive(self, "sequence_length")
        if not 2 <= self.num_symbols <= 2048:
            raise FieldError("num_symbols", f"{self.num_symbols} is outside 2 to 2048 (all pairs are stored)")
        if not 0 < self.logit_scale < float("inf"):
            raise FieldError("logit_scale", f"{self.logit_scale} is not above 0")

    @property
    def vocab_size(self) -> int:
        return self.num_symbols


DataConfig = PythonLibraryConfig | TextFilesConfig | MarkovConfig
