# SPDX-License-Identifier: Apache-2.0
"""scripts/generate.py: a flag that would change nothing beside the others is refused, in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate.py"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--num_beams=2", "--seed=1"], "--seed=1: beam search does not sample"),
        (["--num_beams=2", "--top_k=0"], "--top_k=0: beam search does not sample"),
        (["--length_penalty=0.6"], "--length_penalty=0.6: is for beams; give --num_beams above 1, too"),
        (["--sinks=2"], "--sinks=2: is for a window; give --window, too"),
        (["--num_samples=2", "--stream=always"], "--stream=always: only a single sample is printed as it comes"),
    ],
)
def test_idle_flags_are_refused(flags, line):
    command = [sys.executable, SCRIPT, "--checkpoint=nowhere", "--prompt=a", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")
