# SPDX-License-Identifier: Apache-2.0
"""scripts/watch.py on run folders that are written by hand, in the terminal and over HTTP."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from t5x_like.reporting.watching import Watched, braille, watched

SCRIPT = Path(__file__).parents[2] / "scripts" / "watch.py"


def write(folder, steps, status=None):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"training": {"steps": 400}}))
    lines = [
        {"split": "train", "step": s, "tokens": 64 * s, "loss": 4 - s / 200, "tokens_per_second": 640.0} for s in steps
    ]
    lines.append({"split": "eval", "step": steps[-1], "tokens": 64 * steps[-1], "loss": 3.125})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status:
        (folder / "summary.json").write_text(json.dumps({"status": status}))
    return folder


def run(*words):
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={"COLUMNS": "100"})


def test_curves_in_the_terminal(tmp_path):
    one, two = write(tmp_path / "one", [50, 100, 200]), write(tmp_path / "two", [50, 400], "finished")
    done = run(one, two, "--once")
    assert done.returncode == 0, done.stderr
    first, second = [line.split() for line in done.stdout.splitlines() if line.startswith(("one", "two"))]
    # 200 steps of 64 tokens at 640 tokens a second are left
    assert first == ["one", "training", "200", "of", "400", "3.000", "3.125", "640", "20", "s"]
    assert second == ["two", "finished", "400", "of", "400", "2.000", "3.125", "640"]
    assert re.search("[\u2801-\u28ff]", done.stdout) and "3.750" in done.stdout and "2.000" in done.stdout


def test_it_ends_with_the_runs(tmp_path):
    done = run(write(tmp_path / "one", [50, 100], "diverged"))
    assert done.returncode == 0 and "diverged" in done.stdout


def test_a_sweep_is_its_cells(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, [10, 20])
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": ["b", "a", "not yet"]}))
    assert [each.name for each in watched([str(tmp_path)])] == ["b", "a"]


def test_only_what_is_new_is_read(tmp_path):
    run = Watched(write(tmp_path / "one", [10, 20]))
    run.read()
    path = run.folder / "metrics.jsonl"
    line = json.dumps({"split": "train", "step": 30, "loss": 1.5})
    with path.open("a") as file:
        file.write(line[:10])
    run.read()
    assert run.curve("loss", "train")[0] == [10, 20]  # half a line is no line
    with path.open("a") as file:
        file.write(line[10:] + "\n")
    run.read()
    assert run.curve("loss", "train") == ([10, 20, 30], [3.95, 3.9, 1.5])
    path.write_text(line + "\n")  # a run that was begun anew
    run.read()
    assert run.curve("loss", "train") == ([30], [1.5])


def test_dots_are_where_the_curve_is():
    """A falling line over 2 x 1 letters has 4 columns of dots, 4 high: one a column, along the diagonal."""
    ((text, owners),) = braille([([0, 3], [3, 0])], 2, 1)
    assert text == chr(0x2800 + 0x01 + 0x10) + chr(0x2800 + 0x04 + 0x80)
    assert owners == [0, 0]
    assert braille([], 2, 1) == [("\u2800\u2800", [-1, -1])]


@pytest.fixture
def server(tmp_path):
    folder = write(tmp_path / "one", [50, 100])
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), "--serve=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip(), folder
    finally:
        process.kill()
        process.wait()


def test_a_page_for_a_browser(server):
    address, folder = server
    page = urllib.request.urlopen(address, timeout=20).read().decode()
    assert "/data.json" in page and "Plotly.react" in page
    assert b"plotly" in urllib.request.urlopen(f"{address}/plotly.js", timeout=20).read(2000)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"split": "train", "step": 150, "tokens": 9600, "loss": 2.5}) + "\n")
    (shown,) = json.loads(urllib.request.urlopen(f"{address}/data.json", timeout=20).read())["runs"]
    assert shown["train"] == {"x": [50, 100, 150], "y": [3.75, 3.5, 2.5]} and shown["status"] == "training"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/etc/passwd", timeout=20)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: no folder is given; accepted: run folders, or a sweep's"),
        (["nowhere"], "error: nowhere: is neither a run folder nor a sweep's"),
        (
            ["ONE", "--metric=los", "--once"],
            "error: --metric=los: no line has it; accepted: loss, split, step, tokens,",
        ),
        (["ONE", "--every=0"], "error: --every and --most: expected numbers above 0"),
    ],
)
def test_a_mistake_is_one_line(words, line, tmp_path):
    one = write(tmp_path / "one", [50, 100])
    done = run(*(word.replace("ONE", str(one)) for word in words))
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
