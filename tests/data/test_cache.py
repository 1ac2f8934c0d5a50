# SPDX-License-Identifier: Apache-2.0
"""The cache of tokenised text: built once, whole or absent, safe against others."""

import os
import subprocess
import sys

import numpy as np
import pytest

from t5x_like.config import BPETokenizerConfig, LanguageModelConfig, TextFilesConfig
from t5x_like.data import cache
from t5x_like.data.examples import load_examples
from t5x_like.errors import UserError


def _config(pattern, vocab_size=280, **more):
    source = TextFilesConfig(pattern=pattern)
    return LanguageModelConfig(source=source, tokenizer=BPETokenizerConfig(vocab_size=vocab_size), **more)


@pytest.fixture
def config(write_corpus):
    return _config(write_corpus())


def _encode(tokenizer, examples):
    return ({"text": tokens} for tokens in tokenizer.encode_documents([example["text"] for example in examples]))


def _build(config, root):
    return cache.tokenised(config, load_examples(config, ("text",)), _encode, {}, root)


def _assert_same(left, right):
    for split in cache.SPLITS:
        for one, other in zip(getattr(left, split)["text"], getattr(right, split)["text"], strict=True):
            np.testing.assert_array_equal(one, other)
    assert left.meta == right.meta
    assert left.tokenizer.token_bytes == right.tokenizer.token_bytes


def test_second_time_nothing_is_tokenised(config, tmp_path, monkeypatch):
    first = _build(config, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "build_tokenizer", lambda *_: pytest.fail("tokenised again"))
        _assert_same(_build(config, tmp_path / "cache"), first)
    assert first.train["text"].stream.dtype == np.uint16
    assert first.train["text"].starts.dtype == np.int64
    assert isinstance(first.train["text"].stream.base, np.memmap)
    _assert_same(_build(config, tmp_path / "elsewhere"), first)  # and built anew it is the same


def test_streams_are_the_documents(config, tmp_path):
    text = _build(config, tmp_path / "cache")
    examples = load_examples(config, ("text",))
    for split in cache.SPLITS:
        entries, ragged = getattr(examples, split), getattr(text, split)["text"]
        assert (ragged.stream[ragged.starts] == 0).all()
        assert (ragged.stream == 0).sum() == len(entries)
        texts = [text.tokenizer.decode(ragged.row(number)) for number in range(len(entries))]
        assert texts == [entry.read()["text"] for entry in entries]


def test_a_long_corpus_is_encoded_in_parts(config, tmp_path, monkeypatch):
    first = _build(config, tmp_path / "cache")
    monkeypatch.setattr(cache, "_TEXT_BYTES_AT_ONCE", 1000)
    _assert_same(_build(config, tmp_path / "other"), first)


def test_every_setting_has_its_own_folder(config, write_corpus, tmp_path):
    root = tmp_path / "cache"
    fingerprints = {_build(config, root).meta["fingerprint"]}
    for tokenizer, fraction in ((281, 0.1), (280, 0.5)):
        other = _config(config.source.pattern, tokenizer, held_out_fraction=fraction)
        fingerprints.add(_build(other, root).meta["fingerprint"])
    (tmp_path / "books" / "new.txt").write_text("more text")
    fingerprints.add(_build(config, root).meta["fingerprint"])
    assert len(list(root.iterdir())) == len(fingerprints) == 4


def test_the_slower_of_two_builders_takes_what_is_there(config, tmp_path, monkeypatch):
    write = cache._write
    others = []

    def slow_write(tokenizer, examples, encode, folder, **more):
        write(tokenizer, examples, encode, folder, **more)
        if not others:  # meanwhile, another process
            others.append(folder)
            _build(config, tmp_path / "cache")

    monkeypatch.setattr(cache, "_write", slow_write)
    text = _build(config, tmp_path / "cache")
    assert len(others) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [next((tmp_path / "cache").glob("text-*")).name]
    _assert_same(text, _build(config, tmp_path / "elsewhere"))


def test_two_processes_at_once(config, tmp_path):
    program = (
        "import sys, pathlib; from t5x_like.config import *; from t5x_like.data.pipeline import build_dataset\n"
        f"config = {config!r}\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(build_dataset(config, 0, pathlib.Path({str(tmp_path / 'cache')!r})).fingerprint)\n"
    )
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    builders = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    outputs = [builder.communicate(timeout=60) for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], outputs
    assert {output for output, _ in outputs} == {_build(config, tmp_path / "cache").meta["fingerprint"] + "\n"}
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_build_that_is_cut_short_leaves_nothing_to_read(config, tmp_path, monkeypatch):
    def cut_short(tokenizer, examples, encode, folder, **more):
        (folder / "train.npy").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", cut_short)
        with pytest.raises(KeyboardInterrupt):
            _build(config, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(_build(config, tmp_path / "cache").train["text"].stream) > 100


def test_what_a_killed_build_left_is_removed_after_a_day(config, tmp_path):
    root = tmp_path / "cache"
    old, young = root / ".text-0.old", root / ".text-0.young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "train.npy").write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    _build(config, root)
    assert not old.exists()
    assert young.exists()


def test_a_damaged_folder_is_named(config, tmp_path):
    _build(config, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    np.save(folder / "train" / "text.npy", np.zeros(3, np.uint16))
    with pytest.raises(UserError, match=f"{folder.name}: damaged .* delete the folder"):
        _build(config, tmp_path / "cache")
    (folder / "meta.json").unlink()
    with pytest.raises(UserError, match="damaged"):
        _build(config, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="T5X_LIKE_CACHE"):
        _build(config, tmp_path / "file")


def test_a_rename_that_fails_is_no_success(config, tmp_path, monkeypatch):
    def rename(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(cache.Path, "rename", rename)
    with pytest.raises(UserError, match=r"cannot be written .Permission denied"):
        _build(config, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "here"))
    assert cache.cache_root() == tmp_path / "here"
    monkeypatch.delenv("T5X_LIKE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "t5x_like"


def test_a_corpus_too_small_for_the_vocabulary(config, tmp_path):
    too_many = _config(config.source.pattern, 60000)
    with pytest.raises(UserError, match="vocab_size=60000"):
        _build(too_many, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_reading_tokens_needs_no_jax():
    program = "import sys, t5x_like.data.pipeline; sys.exit(any(name in sys.modules for name in ('jax', 'grain')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
