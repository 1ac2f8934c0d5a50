# SPDX-License-Identifier: Apache-2.0
"""Text to tokens and back."""

import codecs
import json

import numpy as np
import pytest

from t5x_like.config import BPETokenizerConfig
from t5x_like.data.tokenizers import ByteTokenizer, build_tokenizer, load_tokenizer
from t5x_like.errors import UserError

TEXTS = [
    "the loss of the larger model\n",
    "    def loss(self):\n        return self.loss\n",
    "naïve Ωmega 模型 the the",
] * 3


def train_bpe(texts, vocab_size):
    return build_tokenizer(BPETokenizerConfig(vocab_size=vocab_size), texts)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 290)


@pytest.fixture(params=["byte", "bpe"])
def tokenizer(request, bpe):
    return ByteTokenizer() if request.param == "byte" else bpe


def _random_text(generator):
    """Any code points but surrogates, from every plane, with many spaces, controls and combining marks."""
    ranges = [(0, 0x80), (0, 0x21), (0x80, 0x300), (0x300, 0x370), (0x370, 0xD800), (0xE000, 0x110000)]
    picked = generator.choice(len(ranges), generator.integers(0, 60))
    return "".join(chr(generator.integers(*ranges[index])) for index in picked)


def test_every_text_comes_back(tokenizer):
    generator = np.random.default_rng(1)
    texts = [
        *TEXTS,
        "",
        " ",
        "\ufeffbom",
        "\r\n\r",
        "e\u0301 é",
        "<|endoftext|>",
        *(_random_text(generator) for _ in range(300)),
    ]
    encoded = list(tokenizer.encode_documents(texts))
    for text, ids in zip(texts, encoded, strict=True):
        assert ids.dtype == np.uint16
        assert tokenizer.separator not in ids
        assert ids.max(initial=0) < tokenizer.vocab_size
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes[i] for i in ids) == text.encode()


def test_one_text_is_encoded_as_among_others(tokenizer):
    texts = TEXTS * 30  # more than the tokenizer hands to the library at a time
    for text, ids in zip(texts, tokenizer.encode_documents(texts), strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_byte_tokens_are_the_bytes_plus_one():
    assert ByteTokenizer().encode("aé").tolist() == [0x61 + 1, 0xC3 + 1, 0xA9 + 1]
    assert ByteTokenizer().vocab_size == 257


def test_bpe_has_the_configured_size_and_compresses(bpe):
    assert bpe.vocab_size == 290
    assert len(set(bpe.token_bytes)) == 290
    assert b" the" in bpe.token_bytes  # twice in a text: the merges were learned from these texts
    assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0]) / 2


def test_bpe_first_merge_is_the_most_frequent_pair():
    assert train_bpe(["abab abab xyz"], 258).token_bytes[257] == b"ab"


def test_bpe_training_is_deterministic(bpe, tmp_path):
    bpe.save(tmp_path / "one.json")
    train_bpe(iter(reversed(TEXTS)), 290).save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert type(loaded) is type(tokenizer)
    assert loaded.token_bytes == tokenizer.token_bytes
    text = TEXTS[1] + "<|endoftext|>模"
    np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))


def test_decoding_what_is_not_text(tokenizer):
    ids = tokenizer.encode("a模b")
    assert tokenizer.decode([0, *ids[:1], 0]) == "a"  # separators are no text
    assert tokenizer.decode(ids[:2]) == "a\ufffd"  # cut within the character
    assert tokenizer.decode([tokenizer.vocab_size, *ids, -1]) == "\ufffda模b\ufffd"
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    assert "".join(decoder.decode(tokenizer.decode_bytes([i])) for i in ids) == "a模b"


def test_user_errors(tokenizer, tmp_path):
    with pytest.raises(UserError, match="lone surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(UserError, match=r"vocab_size=5000.*accepted: 257 to \d+"):
        build_tokenizer(BPETokenizerConfig(vocab_size=5000), TEXTS)
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path / "absent.json")
    (tmp_path / "other.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(UserError, match=r"other\.json: not a tokenizer"):
        load_tokenizer(tmp_path / "other.json")
