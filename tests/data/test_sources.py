# SPDX-License-Identifier: Apache-2.0
"""Every kind of source, what may be wrong with it, and datasets that are prepared and read back."""

import ast
import inspect
import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t5x_like.config.data.images import ImageClassificationConfig
from t5x_like.config.data.sources import (
    ArrayRecordConfig,
    DigitsConfig,
    ImageFoldersConfig,
    JsonLinesConfig,
    ParquetConfig,
    PythonDocstringsConfig,
    PythonFunctionsConfig,
    TextFilesConfig,
    TFDSConfig,
)
from t5x_like.config.data.tasks import LanguageModelConfig, TaskConfig
from t5x_like.config.data.tokenizers import ByteTokenizerConfig
from t5x_like.data.examples import load_examples
from t5x_like.data.pipeline import build_dataset
from t5x_like.data.preparing import prepare
from t5x_like.data.sources import BadExample, build_source
from t5x_like.data.sources.python_code import _docstrings_of
from t5x_like.errors import UserError
from t5x_like.strict import FieldError

ROWS = [{"text": f"naïve text {n} 模型", "label": n % 3, "score": n / 4, "words": ["a", f"b{n}"]} for n in range(50)]


def all_of(source):
    return [source[index] for index in range(len(source))]


def write_lines(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonLinesConfig(pattern=str(path))


def test_json_lines(tmp_path):
    write_lines(tmp_path / "a.jsonl", ROWS[:20])
    write_lines(tmp_path / "b.jsonl", ROWS[20:])
    with open(tmp_path / "b.jsonl", "a") as file:
        file.write("\n  \n")  # lines of white space are none
    source = build_source(JsonLinesConfig(pattern=str(tmp_path / "*.jsonl")))
    assert all_of(source) == ROWS and source[33] == ROWS[33]
    assert source.columns == ("text", "label", "score", "words")


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=7)
    source = build_source(ParquetConfig(pattern=str(tmp_path / "*.parquet")))
    assert all_of(source) == ROWS
    (tmp_path / "b.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"b\.parquet: no Parquet file"):
        build_source(ParquetConfig(pattern=str(tmp_path / "*.parquet")))


def test_array_record(tmp_path):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for row in [*ROWS, 3]:
        writer.write(json.dumps(row).encode())
    writer.close()
    source = build_source(ArrayRecordConfig(pattern=str(tmp_path / "*.array_record")))
    assert [source[index] for index in range(50)] == ROWS
    with pytest.raises(BadExample, match=r"a\.array_record, record 50: a JSON int; expected an object"):
        source[50]


def test_places_that_are_no_disk(tmp_path):
    """What fsspec knows, as gs:// and s3:// are; here a file:// address and files in memory."""
    import fsspec

    write_lines(tmp_path / "a.jsonl")
    assert all_of(build_source(JsonLinesConfig(pattern=f"file://{tmp_path}/*.jsonl"))) == ROWS
    with fsspec.open("memory://texts/one.txt", "wb") as file:
        file.write("über".encode())
    assert all_of(build_source(TextFilesConfig(pattern="memory://texts/*.txt"))) == [{"text": "über"}]
    with pytest.raises(UserError, match=r"nowhere/\*\.txt': no file matches"):
        build_source(TextFilesConfig(pattern="memory://nowhere/*.txt"))
    with pytest.raises(UserError, match="cannot be listed"):
        build_source(TextFilesConfig(pattern="no-such-protocol://x/*.txt"))


def test_functions_and_the_first_lines_of_their_docstrings():
    source = build_source(PythonFunctionsConfig())
    pairs = {example["inputs"].split("(")[0]: example for example in all_of(source)}
    assert len(source) > 4000
    example = pairs["def load_module"]
    assert example["targets"] and '"""' not in example["inputs"]
    for example in list(pairs.values())[:200]:
        assert "\n" not in example["targets"] and not example["inputs"].startswith(" ")


def test_functions_are_labelled_by_their_package():
    everything, some = (all_of(build_source(PythonFunctionsConfig(packages=n))) for n in (None, 3))
    counts = np.bincount([example["label"] for example in everything])
    assert len(counts) > 20 and (np.diff(counts) <= 0).all()
    assert some == [example for example in everything if example["label"] < 3]
    (label,) = {e["label"] for e in everything if e["inputs"].startswith("def message_from_binary_file(")}
    own = [e["inputs"].split("(")[0].split()[-1] for e in everything if e["label"] == label]
    written = "\n".join(path.read_text() for path in (Path(os.__file__).parent / "email").rglob("*.py"))
    assert len(own) > 50 and all(f"def {name}(" in written for name in own)
    with pytest.raises(FieldError, match="0 is below 1"):
        PythonFunctionsConfig(packages=0)


def test_docstrings_in_their_order_none_twice(monkeypatch, tmp_path):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path))
    _docstrings_of.cache_clear()
    texts = [example["text"] for example in all_of(build_source(PythonDocstringsConfig(packages=("optax",))))]
    (whole,) = [text for text in texts if text.startswith(textwrap.__doc__.strip())]
    for one, other in itertools.pairwise((textwrap.TextWrapper, textwrap.TextWrapper.wrap, textwrap.fill)):
        assert 0 < whole.index(inspect.getdoc(one)) < whole.index(inspect.getdoc(other))
    assert "optax.adam" in "".join(texts)
    parts = [part for text in texts for part in text.split("\n\n") if len(part) > 400]
    assert len(set(parts)) > 0.95 * len(parts)  # whole docstrings are compared, parts may come again
    _docstrings_of.cache_clear()
    monkeypatch.setattr(ast, "parse", None)  # the second time nothing is parsed
    assert [e["text"] for e in all_of(build_source(PythonDocstringsConfig(packages=("optax",))))] == texts
    with pytest.raises(UserError, match=r"data\.source\.packages: 'no_such' is not installed here"):
        build_source(PythonDocstringsConfig(packages=("no_such",)))


def test_images(tmp_path):
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(np.full((4, 5, 3), 40 * label + number, np.uint8)).save(tmp_path / name / f"{number}.png")
    source = build_source(ImageFoldersConfig(folder=str(tmp_path)))
    assert source.classes == ("cats", "dogs") and len(source) == 6
    assert source[4]["label"] == 1 and (source[4]["image"] == 41).all() and source[4]["image"].shape == (4, 5, 3)
    folders = ImageFoldersConfig(folder=str(tmp_path))
    config = ImageClassificationConfig(source=folders, held_out_fraction=0.3, image_size=4, channels=3)
    batch = build_dataset(config, 0).training_batch(0, 2)
    assert batch["images"].shape == (2, 4, 4, 3) and batch["images"].dtype == np.float32
    np.testing.assert_array_equal(np.rint(batch["images"][:, 0, 0, 0] * 255) // 40, batch["labels"])
    (tmp_path / "cats" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png: does not decode as an image"):
        build_dataset(config, 0)
    with pytest.raises(UserError, match="no such folder"):
        build_source(ImageFoldersConfig(folder=str(tmp_path / "nowhere")))


def test_digits():
    pytest.importorskip("sklearn")
    source = build_source(DigitsConfig())
    assert len(source) == 1797 and source[0]["label"] == 0
    assert source[0]["image"].shape == (8, 8, 1) and source[0]["image"].max() == 239


def test_wrong_encodings_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "na\xefve"}\n')
    config = LanguageModelConfig(source=JsonLinesConfig(pattern=f"{tmp_path}/*.jsonl"))
    with pytest.raises(UserError, match=r"a\.jsonl:2: not UTF-8 text \(byte 0xef at offset 12\).*'skip'"):
        load_examples(config, ("text",))


# ------------------------------------------------------------------------------------------------ TensorFlow Datasets


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr("t5x_like.data.preparing._EXAMPLES_IN_A_SHARD", 12)
    return TaskConfig(source=write_lines(tmp_path / "rows.jsonl"), held_out_fraction=0.3)


def test_a_prepared_dataset_is_the_source(task, tmp_path):
    told = []
    place = prepare(task, tmp_path / "sets", "mine", workers=2, progress=lambda *args: told.append(args))
    assert told[-1] == (50, 50) and len(list(place.glob("mine-train.*"))) > 1
    found = []
    for split in ("train", "held_out"):
        source = build_source(TFDSConfig(name="mine", data_dir=str(tmp_path / "sets"), split=split))
        found += all_of(source)
    for row in found:
        row["words"] = [word.decode() if isinstance(word, bytes) else word for word in row["words"]]
    assert sorted(found, key=lambda row: row["score"]) == ROWS
    some = build_source(TFDSConfig(name="mine:1.0.0", data_dir=str(tmp_path / "sets"), split="train[:10]"))
    assert len(some) == 10
    with pytest.raises(UserError, match=r"split='test': .*accepted: .*held_out"):
        build_source(TFDSConfig(name="mine", data_dir=str(tmp_path / "sets"), split="test"))

    sets = {"source": TFDSConfig(name="mine", data_dir=str(tmp_path / "sets"))}
    sets["held_out"] = TFDSConfig(name="mine", data_dir=str(tmp_path / "sets"), split="held_out")
    dataset = build_dataset(
        LanguageModelConfig(**sets, tokenizer=ByteTokenizerConfig(), sequence_length=8), 0, tmp_path / "cache"
    )
    examples = load_examples(task, build_source(task.source).columns)
    assert dataset.description["train_examples"] == len(examples.train)


def test_what_was_interrupted_goes_on_and_comes_out_the_same(task, tmp_path):
    whole = prepare(task, tmp_path / "whole", "mine")
    parts = prepare(task, tmp_path / "parts", "mine")
    gone = sorted(parts.glob("mine-*"))[::2]
    for path in [*gone, parts / "dataset_info.json"]:
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("mine-*")}
    told = []
    prepare(task, tmp_path / "parts", "mine", progress=lambda *args: told.append(args))
    assert 0 < told[0][0] < 50  # some were there
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert sorted(p.name for p in whole.iterdir()) == sorted(p.name for p in parts.iterdir())
    for split in ("train", "held_out"):
        one, other = (
            build_source(TFDSConfig(name="mine", data_dir=str(tmp_path / name), split=split))
            for name in ("whole", "parts")
        )
        assert [str(example) for example in all_of(one)] == [str(example) for example in all_of(other)]


def test_what_was_killed_at_work_goes_on_and_comes_out_the_same(tmp_path):
    rows = [{"text": f"{n} " + "a long text " * 200, "label": n % 3} for n in range(20_000)]
    write_lines(tmp_path / "rows.jsonl", rows)
    options = [f"--out={tmp_path / 'killed'}", "--name=mine", "--workers=1", "--config.source.kind=json_lines"]
    command = [sys.executable, "scripts/prepare.py", *options, f"--config.source.pattern={tmp_path / 'rows.jsonl'}"]
    place = tmp_path / "killed/mine/1.0.0"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        while not list(place.glob("mine-*")):  # a shard is there; the next one is at work
            assert program.poll() is None, program.stderr.read()
            time.sleep(0.01)
        program.kill()
    assert not (place / "dataset_info.json").exists()
    there = {path: path.stat().st_mtime_ns for path in place.glob("mine-*")}
    assert 0 < len(there) < 6
    subprocess.run(command, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == when for path, when in there.items())
    assert not list(place.glob(".*"))  # nothing half done is left
    found = []
    for split in ("train", "held_out"):
        found += all_of(build_source(TFDSConfig(name="mine", data_dir=str(tmp_path / "killed"), split=split)))
    assert sorted(found, key=lambda row: int(row["text"].split()[0])) == rows


def test_another_dataset_of_that_name_is_not_touched(task, tmp_path):
    place = prepare(task, tmp_path / "sets", "mine")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    write_lines(tmp_path / "rows.jsonl", ROWS[:30])
    with pytest.raises(UserError, match=r"mine/1\.0\.0: holds another dataset \(its fingerprint differs\)"):
        prepare(task, tmp_path / "sets", "mine")
    assert before == {path.name: path.read_bytes() for path in place.iterdir()}


def test_a_name_that_is_not_prepared_is_refused_at_once(tmp_path):
    (tmp_path / "other").mkdir()
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        build_source(TFDSConfig(name="imdb_reviews", data_dir=str(tmp_path)))
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert "\n" not in message and "holds no prepared dataset" in message and "there now: other" in message


def test_no_tensorflow_is_imported(task, tmp_path):
    prepare(task, tmp_path / "sets", "mine")
    program = (
        "import sys\nfrom t5x_like.config.data.sources import TFDSConfig\n"
        "from t5x_like.data.sources import build_source\n"
        f"source = build_source(TFDSConfig(name='mine', data_dir={str(tmp_path / 'sets')!r}))\n"
        "assert len(source[0]['text']) > 5; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
