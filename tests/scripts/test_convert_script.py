# SPDX-License-Identifier: Apache-2.0
"""scripts/convert.py: what it refuses, in one line, and leaves as it was."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert.py"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["to_hf", "nowhere", "FULL"], "FULL: is not empty, and nothing of it is overwritten; choose another folder"),
        (["to_hf", "nowhere", "NEW"], "nowhere: is not a run folder (it has no config.json)"),
        (
            ["from_hf", "nowhere", "NEW"],
            "nowhere: has no config.json; expected a folder that save_pretrained",
        ),
        (["to_hf", "nowhere"], "the following arguments are required: OUT (--help lists the flags)"),
        (["to_h", "nowhere", "NEW"], "argument direction: invalid choice: 'to_h' (choose from"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, line, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").write_text("kept")
    places = {"FULL": str(tmp_path / "full"), "NEW": str(tmp_path / "new")}
    command = [sys.executable, SCRIPT, *(places.get(word, word) for word in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {line.replace('FULL', places['FULL'])}")
    assert (tmp_path / "full/kept").read_text() == "kept" and not (tmp_path / "new").exists()
