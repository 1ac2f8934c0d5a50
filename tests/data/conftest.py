# SPDX-License-Identifier: Apache-2.0
"""A small corpus with everything that makes text awkward, and datasets on it."""

import numpy as np
import pytest

from t5x_like.config import BPETokenizerConfig, ByteTokenizerConfig, LanguageModelConfig, TextFilesConfig
from t5x_like.data.pipeline import build_dataset

_WORDS = [
    "scaling",
    "laws",
    " of ",
    "loss",
    "\n\n",
    "\t",
    "naïve",
    "β",
    "模型",
    "🧪",
    "<|endoftext|>",
    "\r\n",
    "def f(x):",
]


@pytest.fixture
def write_corpus(tmp_path):
    """Writes `count` different files of `words` random words each; returns the pattern that finds them."""

    def write(count=40, words=40):
        generator = np.random.default_rng(0)
        for number in range(count):
            folder = tmp_path / "books" / f"shelf{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            text = "".join(generator.choice(_WORDS, words)) + str(number)
            (folder / f"{number}.txt").write_bytes(text.encode())
        return str(tmp_path / "books" / "**" / "*.txt")

    return write


@pytest.fixture
def text_dataset(write_corpus, tmp_path):
    """Builds language modelling on the small corpus."""

    def build(seed=0, length=12, vocab_size=300, cache="cache", more=None, **corpus):
        tokenizer = BPETokenizerConfig(vocab_size=vocab_size) if vocab_size else ByteTokenizerConfig()
        source = TextFilesConfig(pattern=write_corpus(**corpus))
        config = LanguageModelConfig(
            source=source, sequence_length=length, tokenizer=tokenizer, held_out_fraction=0.2, **(more or {})
        )
        return build_dataset(config, seed, tmp_path / cache)

    return build
