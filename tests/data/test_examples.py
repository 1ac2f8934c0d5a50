# SPDX-License-Identifier: Apache-2.0
"""Which files a corpus has, and on which side each lies."""

import hashlib
import shutil
import sysconfig
from pathlib import Path

import pytest

from t5x_like.config import LanguageModelConfig, TextFilesConfig
from t5x_like.data.examples import load_examples
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError
from t5x_like.strict import convert


def _bytes(examples):
    return sum(entry.size for entry in examples.all)


def _config(pattern, **more):
    return LanguageModelConfig(source=TextFilesConfig(pattern=str(pattern)), **more)


def load(config):
    return load_examples(config, ("text",))


def _contents(entries):
    return {entry.read()["text"] for entry in entries}


def test_splits_share_no_file_and_lose_none(write_corpus, tmp_path):
    config = _config(write_corpus(count=200), held_out_fraction=0.25)
    corpus = load(config)
    train, held_out = _contents(corpus.train), _contents(corpus.held_out)
    assert not train & held_out
    assert train | held_out == {path.read_bytes().decode() for path in (tmp_path / "books").rglob("*.txt")}
    assert 25 < len(held_out) < 75  # 50 expected, standard deviation 6


def test_side_and_fingerprint_go_by_content_alone(write_corpus, tmp_path):
    config = _config(write_corpus(), held_out_fraction=0.3)
    before = load(config)
    for number, path in enumerate((tmp_path / "books").rglob("*.txt")):
        path.rename(path.with_name(f"renamed{-number}.txt"))
    shutil.copytree(tmp_path / "books" / "shelf1", tmp_path / "books" / "a_copy")
    (tmp_path / "books" / "empty.txt").touch()
    after = load(config)
    assert [d.digest for d in after.train] == [d.digest for d in before.train]
    assert [d.digest for d in after.held_out] == [d.digest for d in before.held_out]
    assert (after.fingerprint, _bytes(after)) == (before.fingerprint, _bytes(before))

    (tmp_path / "books" / "new.txt").write_text("one more")
    grown = load(config)
    assert grown.fingerprint != before.fingerprint
    assert {d.digest for d in before.held_out} <= {d.digest for d in grown.held_out}
    assert {d.digest for d in before.train} <= {d.digest for d in grown.train}


def test_fingerprint_is_the_hash_of_the_sorted_hashes(tmp_path):
    texts = ["b", "a", "c"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    corpus = load(_config(f"{tmp_path}/*.txt"))
    digests = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    assert corpus.fingerprint == hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_is_ever_empty(tmp_path, fraction):
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text(str(number))
    corpus = load(_config(f"{tmp_path}/*.txt", held_out_fraction=fraction))
    assert (len(corpus.train), len(corpus.held_out)) == (1, 1)


def test_python_library():
    corpus = load(LanguageModelConfig())
    root = Path(sysconfig.get_path("stdlib"))
    names = {Path(entry.source.paths[entry.index]).relative_to(root).as_posix() for entry in corpus.all}
    assert {"argparse.py", "json/decoder.py", "email/message.py"} <= names
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    assert all(name.endswith(".py") for name in names)
    assert _bytes(corpus) > 5e6
    assert 0.05 < len(corpus.held_out) / len(corpus.all) < 0.15


def _refused(pattern):
    with pytest.raises(UserError) as caught:
        load(_config(pattern))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_user_errors_name_what_was_given(tmp_path):
    (tmp_path / "books").mkdir()
    assert "no file matches" in _refused(tmp_path / "*.text")
    assert "only folders match" in _refused(tmp_path / "books")
    (tmp_path / "books" / "one.txt").write_text("alone")
    (tmp_path / "books" / "copy.txt").write_text("alone")
    assert "1 different non-empty example" in _refused(tmp_path / "books" / "*.txt")
    (tmp_path / "books" / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    message = _refused(tmp_path / "books" / "*.txt")
    assert "latin1.txt: not UTF-8" in message
    assert "0xef at offset 2" in message


def test_who_asked_for_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    """A field that is not `data`; a path that begins with "data" stays whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"data/{name}.txt").write_bytes(f"naïve {name}".encode("latin-1"))

    def told(pattern, field):
        source = {"kind": "text_files", "pattern": pattern}
        config = convert(LanguageModelConfig, {"source": source, "tokenizer": {"kind": "byte"}})
        with pytest.raises(UserError) as caught:
            build_dataset(config, 0, tmp_path / "cache", field=field)
        return str(caught.value)

    assert told("data/*.txt", "data").startswith("data/one.txt: not UTF-8")
    assert told("data/*.txt", "evaluation.a").startswith("evaluation.a: data/one.txt: not UTF-8")
    assert told("none/*", "evaluation.a").startswith("evaluation.a.source.pattern='none/*': no file")


def test_a_file_that_changes_under_our_hands_is_refused(write_corpus):
    corpus = load(_config(write_corpus()))
    Path(corpus.train[0].source.paths[corpus.train[0].index]).write_text("something else")
    with pytest.raises(UserError, match="changed while"):
        corpus.train[0].read()
