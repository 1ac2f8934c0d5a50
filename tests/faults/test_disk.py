# SPDX-License-Identifier: Apache-2.0
"""A full disk, one that cannot be written, a folder in use, and files of a newer version: one line, nothing lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
def get_config():
    return {
        "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
        "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 64, "num_heads": 2},
        "training": {"steps": 400, "checkpoint_every": 100, "batch_size": 4, "eval_tokens": 256, "tensorboard": False},
        "execution": {"steps_per_call": 20},
    }
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


def train(config, folder):
    return [sys.executable, str(ROOT / "scripts/train.py"), f"--config={config}", f"--workdir={folder}"]


def on_a_disk(where, options, *commands):
    """Runs commands in a mount namespace of their own, with a small disk mounted at `where`."""
    where.mkdir()
    mount = f"mount -t tmpfs -o {options} tmpfs {where}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    script = "\n".join([mount, *commands])
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=300)


def shell(words):
    return " ".join(f"'{word}'" for word in words)


def test_a_full_disk_and_room_again(config, tmp_path):
    """What was saved before stays, and the same command goes on from it when there is room."""
    disk = tmp_path / "disk"
    again = shell(train(config, disk / "run"))
    listing = f"ls {disk}/run/checkpoints"
    done = on_a_disk(
        disk,
        "size=1500k",
        f"{again}; echo code $?",
        listing,
        f"mount -o remount,size=30m {disk}",
        f"{again}; echo code $?",
    )
    _, _, second = done.stdout.partition("code 2\n")
    assert second.startswith("100\n200\n300.orbax-checkpoint-tmp\nresuming from step 200\n"), done.stdout + done.stderr
    assert second.endswith("run\ncode 0\n") and "finished at step 400" in second
    assert done.stderr == (
        f"error: {disk}/run/checkpoints: a checkpoint cannot be written: No space left on device; those before it are "
        "whole, and the same command goes on from them\n"
    )


def test_a_disk_that_is_full_from_the_start(config, tmp_path):
    done = on_a_disk(tmp_path / "disk", "size=8k", f"{shell(train(config, tmp_path / 'disk/run'))}; echo code $?")
    assert done.stdout == "code 2\n"
    assert done.stderr.startswith(f"error: {tmp_path}/disk/run/") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(".json: cannot be written: No space left on device\n")


@pytest.mark.parametrize("program", ["train", "sweep"])
def test_a_disk_that_is_read_only(program, config, tmp_path):
    if program == "sweep":
        config.write_text(f'{CONFIG}\nbase = get_config()\ndel base["training"]["steps"]\n' + SWEEP)
    words = train(config, tmp_path / "disk" / "run")
    words[1] = str(ROOT / "scripts" / f"{program}.py")
    done = on_a_disk(tmp_path / "disk", "ro", f"{shell(words)}; echo code $?")
    assert done.stdout.endswith("code 2\n")
    assert done.stderr == (
        f"error: {tmp_path}/disk/run: cannot be made: Read-only file system; choose another --workdir\n"
    )


SWEEP = """
def get_config():
    return {"base": base, "sizes": [{"model.d_model": 4}], "tokens": [4096], "learning_rates": [0.02]}
"""


def test_two_processes_on_one_folder(config, tmp_path):
    """The second one waits; when the first has finished there is nothing left for it to do."""
    words = train(config, tmp_path / "run")
    first, second = (subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in "12")
    outs = [process.communicate(timeout=200)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, outs
    assert all("finished at step 400" in out for out in outs)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    steps = [line["step"] for line in lines if line["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 400


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
def test_a_folder_of_a_newer_version(name, config, tmp_path):
    words = train(config, tmp_path / "run")
    assert subprocess.run(words, capture_output=True).returncode == 0
    path = tmp_path / "run" / name
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 2, "new": 1}))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {path}: is of format 2, of a newer version of t5x_like; accepted: up to 1; update t5x_like\n"
    )
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
