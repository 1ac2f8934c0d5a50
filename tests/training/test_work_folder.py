# SPDX-License-Identifier: Apache-2.0
"""Run folders in a bucket: what is sent and when, and a run that goes on from there."""

import json
import os
import signal

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from t5x_like.errors import UserError
from t5x_like.training import work_folder as module
from t5x_like.training.loop import train
from t5x_like.training.progress import Silent
from t5x_like.training.work_folder import WorkFolder, work_folder


class Bucket(MemoryFileSystem):
    """Google's object store, in memory; notes what is written."""

    protocol = ("gcs", "gs")
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    written = []  # noqa: RUF012

    def __init__(self, *args, finalize_on_close=True, **kwargs):
        super().__init__(*args, **kwargs)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://").removeprefix("gcs://"))

    def _open(self, path, mode="rb", **kwargs):
        if "w" in mode:
            self.written.append(path)
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def bucket(monkeypatch):
    """Takes the place of gs://; a list of what is written."""
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    module.epath.gpath.backend_lib.fsspec_backend._get_filesystem.cache_clear()
    Bucket.store.clear()
    Bucket.written.clear()
    yield Bucket.written
    fsspec.register_implementation("gcs", "gcsfs.GCSFileSystem", clobber=True)
    module.epath.gpath.backend_lib.fsspec_backend._get_filesystem.cache_clear()


def test_what_changed_is_sent_and_the_summary_last(bucket):
    with work_folder("gs://b/runs/one") as folder:
        assert str(folder.checkpoints) == "gs://b/runs/one/checkpoints"
        (folder.local / "summary.json").write_text("{}")
        (folder.local / "metrics.jsonl").write_text("1\n")
        (folder.local / "tensorboard").mkdir()
        (folder.local / "tensorboard" / "events").write_bytes(b"\0\xff")
        (folder.local / ".lock").touch()
        folder.push()
        assert sorted(bucket[:2]) == ["/b/runs/one/metrics.jsonl", "/b/runs/one/tensorboard/events"]
        assert bucket[2:] == ["/b/runs/one/summary.json"]
        folder.push()
        assert len(bucket) == 3  # nothing changed
        with (folder.local / "metrics.jsonl").open("a") as file:
            file.write("2\n")
    assert bucket[3:] == ["/b/runs/one/metrics.jsonl"]  # at the end, unasked
    assert not folder.local.exists()
    again = WorkFolder("gs://b/runs/one")
    assert (again.local / "metrics.jsonl").read_text() == "1\n2\n"
    assert sorted(path.name for path in again.local.iterdir()) == ["metrics.jsonl", "summary.json"]
    again.push()
    assert len(bucket) == 4  # what was fetched is not sent back


def test_it_is_sent_every_so_often(bucket):
    with work_folder("gs://b/run", seconds=0.05) as folder:
        (folder.local / "metrics.jsonl").write_text("1\n")
        for _ in range(200):
            if bucket:
                break
            module.threading.Event().wait(0.05)
        assert bucket == ["/b/run/metrics.jsonl"]


def test_a_bucket_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    def refuse(self):
        raise PermissionError("403: no access")

    monkeypatch.setattr(module.epath.gpath.PosixGPath, "exists", refuse)
    with pytest.raises(UserError, match=r"^gs://b/run: PermissionError: 403: no access$"):
        WorkFolder("gs://b/run")


class StopsAt(Silent):
    def update(self, step, loss, tokens_per_second):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_in_a_bucket_goes_on_and_is_that_of_a_disk(make_run, tmp_path):
    config = make_run("training.steps=8", "training.log_every=2", "training.checkpoint_every=2")
    place = f"file://{tmp_path}/bucket/run"
    assert train(config, place, reporter=StopsAt())["status"] == "interrupted"
    bucket = tmp_path / "bucket" / "run"
    assert {path.name for path in bucket.iterdir()} == {
        "config.json", "environment.json", "accounting.json", "metrics.jsonl", "summary.json", "checkpoints",
    }  # fmt: skip
    summary = train(config, place)
    assert summary["status"] == "finished" and json.loads((bucket / "summary.json").read_text())["steps"] == 8
    train(config, tmp_path / "disk")
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (bucket, tmp_path / "disk")]
    clock = ("tokens_per_second", "mfu")
    ours, theirs = ([{k: v for k, v in json.loads(line).items() if k not in clock} for line in each] for each in lines)
    assert ours == theirs
    assert train(config, place) == summary | {"format": 1}  # ended: read back, nothing done
    with pytest.raises(UserError, match="belongs to another run: seed is 0 there and 1 here"):
        train(make_run("training.steps=8", "seed=1"), place)
