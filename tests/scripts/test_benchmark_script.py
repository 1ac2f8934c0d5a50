# SPDX-License-Identifier: Apache-2.0
"""scripts/benchmark.py: its files, and one line for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.files import read_json

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


def run(*flags):
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--sections=trainign"],
            "error: --sections: 'trainign' is not known; accepted: attention, breakdown",
        ),
        (["--shapes=tinny"], "error: --shapes: 'tinny' is not known; accepted: small, tiny; did you mean 'tiny'?"),
        (["--lengths=many"], "error: --lengths=many: expected whole numbers with commas between them"),
        (["--rounds=0"], "error: --rounds=0: expected a number above 0"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, flags, line):
    done = run(f"--out={tmp_path / 'out'}", *flags)
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_attention_is_measured_and_written(tmp_path):
    done = run(f"--out={tmp_path}", "--sections=attention", "--lengths=64", "--rounds=2", "--seconds=0.01")
    assert done.returncode == 0, done.stderr
    content = read_json(tmp_path / "benchmark.json")
    naive, blockwise = content["attention"]
    assert (naive["contender"], blockwise["contender"], naive["subject"]) == ("naive", "blockwise", "T = 64")
    median, least, greatest = blockwise["ratios"]["to naive"]
    assert 0 < least <= median <= greatest
    assert "MiB" in naive["note"]
    assert content["machine"]["jax"] and (tmp_path / "benchmark.md").read_text() in done.stdout
