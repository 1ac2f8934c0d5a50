# SPDX-License-Identifier: Apache-2.0
"""Text to tokens and back."""

import codecs
import json
import subprocess
import sys

import numpy as np
import pytest
import tokenizers as huggingface

from t5x_like.config.data.tokenizers import (
    BPETokenizerConfig,
    ByteTokenizerConfig,
    FileTokenizerConfig,
    UnigramTokenizerConfig,
    WordPieceTokenizerConfig,
)
from t5x_like.data.tasks.span import span_of
from t5x_like.data.tokenizers import ByteTokenizer, LearnedTokenizer, build_tokenizer, load_tokenizer
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


# ------------------------------------------------------------------------------------------------ other kinds


def test_wordpiece_is_berts(tmp_path):
    """Ids of the library itself on the same vocabulary; special tokens where BERT has them."""
    ours = build_tokenizer(WordPieceTokenizerConfig(vocab_size=70), TEXTS)
    assert ours.specials == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    ours.save(tmp_path / "tokenizer.json")
    theirs = huggingface.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids
    assert ours.decode(ours.encode("The LOSS")) == " the loss"
    ids = ours.encode("the losses")
    pieces = [ours.token_bytes[i] for i in ids]
    assert ours.word_starts[ids].tolist() == [piece.startswith(b" ") for piece in pieces]


def test_unigram_is_lossless_and_has_sentinels_as_t5_has_them():
    texts = [f"{text} number {n}" for n in range(200) for text in TEXTS]
    ours = build_tokenizer(UnigramTokenizerConfig(vocab_size=320, sentinels=3), texts)
    assert ours.vocab_size == 320 and ours.specials["pad"] == 0 and ours.specials["eos"] == 1
    assert ours.sentinels == (319, 318, 317)
    for text in [*TEXTS, "unseen: 模 🧪 ß"]:
        assert ours.decode(ours.encode(text)).lstrip(" ") == text.lstrip(" ")
    assert not set(ours.encode("<extra_id_0> </s> <pad>")) & {0, 1, 317, 318, 319}  # a text that spells them


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_a_vocabulary_depends_on_its_texts_and_not_on_the_process(kind):
    """Letters of equal counts, and hash tables whose order differs from process to process, decide ties."""
    program = (
        "from pathlib import Path\nfrom t5x_like.config.data import tokenizers\n"
        "from t5x_like.data.tokenizers import build_tokenizer\n"
        "texts = [path.read_text() for path in sorted(Path('t5x_like/models').rglob('*.py'))]\n"
        f"config = next(c for c in vars(tokenizers).values() if getattr(c, 'kind', None) == {kind!r})\n"
        "print(build_tokenizer(config(vocab_size=800), texts).fingerprint)"
    )
    told = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(3)}
    assert len(told) == 1


def test_specials_and_sentinels(tmp_path):
    ours = build_tokenizer(WordPieceTokenizerConfig(vocab_size=70, specials=("image",)), TEXTS)
    assert ours.specials["image"] == WordPieceTokenizerConfig(specials=("image",)).special("image") == 5
    for config in (
        ByteTokenizerConfig(specials=("mask", "cls"), sentinels=5),
        BPETokenizerConfig(vocab_size=300, specials=("mask", "cls"), sentinels=5),
    ):
        ours = build_tokenizer(config, TEXTS)
        assert ours.vocab_size == config.tokens
        roles = ours.needs(("mask", "cls", "eos"), "a test", 5)
        assert len({*roles.values(), *ours.sentinels}) == 8
        assert ours.sentinels[0] == ours.vocab_size - 1
        ours.save(tmp_path / "tokenizer.json")
        again = load_tokenizer(tmp_path / "tokenizer.json")
        assert (again.specials, again.sentinels) == (ours.specials, ours.sentinels)
        assert ours.decode([*roles.values(), *ours.sentinels]) == ""
        assert ours.decode(ours.encode("<mask> <extra_id_0>")) == "<mask> <extra_id_0>"


def test_a_sentencepiece_model_is_read_as_it_is(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "texts.txt").write_text("\n".join(f"{text} number {n}" for n in range(200) for text in TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"), model_prefix=str(tmp_path / "spm"), vocab_size=60, pad_id=3,
        user_defined_symbols=["<extra_id_0>"], minloglevel=2,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    ours = build_tokenizer(FileTokenizerConfig(path=str(tmp_path / "spm.model")), ())
    for text in TEXTS:
        assert ours.encode(text).tolist() == theirs.encode(text)
        assert ours.decode(ours.encode(text)).strip() == theirs.decode(theirs.encode(text))
    tokens, ends = ours.encode_with_ends("the loss of the model")
    first, last = span_of(ends, 4, 8)
    assert ours.decode(tokens[first : last + 1]).strip() == "loss"
    with pytest.raises(UserError, match=r"does not keep 'the  loss' as it is, so nothing in it can be found"):
        ours.encode_with_ends("the  loss")
    assert ours.specials == {"pad": 3, "bos": 1, "eos": 2, "unk": 0, "cls": 1, "sep": 2}
    assert ours.sentinels == (theirs.piece_to_id("<extra_id_0>"),)
    ours.save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path / "tokenizer.json").fingerprint == ours.fingerprint
    assert FileTokenizerConfig(path=str(tmp_path / "spm.model")).tokens == 60


def test_large_vocabularies_take_wider_ids():
    config = BPETokenizerConfig(vocab_size=70_000)
    assert config.tokens == 70_000
    model = huggingface.Tokenizer(huggingface.models.WordLevel({f"w{i}": i for i in range(70_000)}, unk_token="w0"))
    model.pre_tokenizer = huggingface.pre_tokenizers.Whitespace()
    ours = LearnedTokenizer(model)
    assert ours.encode("w69999 w1").tolist() == [69_999, 1] and ours.dtype == np.uint32


@pytest.mark.parametrize(
    "config",
    [
        ByteTokenizerConfig(),
        BPETokenizerConfig(vocab_size=290),
        WordPieceTokenizerConfig(vocab_size=70),
        UnigramTokenizerConfig(vocab_size=320),
    ],
    ids=lambda config: config.kind,
)
def test_tokens_know_where_they_end(config):
    """Those of a word, found by their ends, are the word; one that spells a special token, too."""
    ours = build_tokenizer(config, [f"{text} number {n}" for n in range(200) for text in TEXTS])
    for text in ("the loss\n of naïve   Ωmega models", "x </s> 模型 larger self.loss", "loss"):
        tokens, ends = ours.encode_with_ends(text)
        np.testing.assert_array_equal(tokens, ours.encode(text))
        assert ends[-1] == len(text) and (np.diff(ends) >= 0).all()
        for word in text.split():
            start = text.index(word)
            first, last = span_of(ends, start, start + len(word))
            spelt = ours.decode(tokens[first : last + 1]).strip()
            if config.kind != "wordpiece":
                assert spelt == word
            elif set(word) <= set(TEXTS[0] + "ï"):  # letters that it knows
                assert spelt == word.replace("ï", "i")
    assert [len(part) for part in ours.encode_with_ends("")] == [0, 0]


def test_a_file_that_pads_and_cuts_does_not_here(tmp_path):
    """As those of sentence encoders do; a padded text would be another one to a model."""
    words = huggingface.Tokenizer(huggingface.models.WordLevel({"<pad>": 0, "a": 1}, unk_token="<pad>"))
    words.pre_tokenizer = huggingface.pre_tokenizers.Whitespace()
    words.enable_padding(length=6, pad_token="<pad>")
    words.enable_truncation(3)
    words.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a a").tolist() == [1, 1] and tokenizer.encode("a " * 9).tolist() == [1] * 9
