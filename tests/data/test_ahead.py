# SPDX-License-Identifier: Apache-2.0
"""Rows made ahead by other processes: the same rows, whatever the workers; what ends with what."""

import os
import signal

import numpy as np
import psutil
import pytest

from t5x_like.config.data.tasks import DenoisingConfig
from t5x_like.config.data.tokenizers import ByteTokenizerConfig
from t5x_like.data import dataset as datasets
from t5x_like.data.ahead import made_ahead
from t5x_like.data.pipeline import build_dataset
from t5x_like.errors import UserError


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "_BLOCK_TOKENS", 256)
    rng = np.random.default_rng(0)
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(" ".join(f"word{i}." for i in rng.integers(0, 99, 200)))
    source = {"kind": "text_files", "pattern": str(tmp_path / "*.txt")}
    from t5x_like.strict import convert

    tokenizer = ByteTokenizerConfig(specials=("mask",))
    return convert(DenoisingConfig, {"source": source, "tokenizer": tokenizer, "sequence_length": 32})


def workers():
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize("count", [1, 2])
def test_workers_make_the_same_batches(count, text):
    own, fed = build_dataset(text, 3), build_dataset(text, 3)
    with made_ahead(fed, text, 3, count):
        for index in (0, 1, 2, 7, 8, 30, 31):  # the jumps are those of a run that resumes
            expected = own.training_batches(index, 1, 12)
            for name, value in fed.training_batches(index, 1, 12).items():
                np.testing.assert_array_equal(value, expected[name])
        assert len(workers()) == count
    assert fed.ahead is None


def test_a_killed_worker_is_one_line(text):
    dataset = build_dataset(text, 0)

    def reading():
        with made_ahead(dataset, text, 0, 1):
            dataset.training_batches(0, 1, 8)
            os.kill(workers()[0].pid, signal.SIGKILL)
            dataset.training_batches(100, 1, 8)

    with pytest.raises(UserError, match=r"^execution\.data_workers=1: one of them ended"):
        reading()


def test_workers_that_open_other_data_are_found_out(text):
    dataset = build_dataset(text, 0)
    dataset.fingerprint = "another"
    with pytest.raises(UserError, match="the data changed"), made_ahead(dataset, text, 0, 1):
        dataset.training_batches(0, 1, 8)
