# SPDX-License-Identifier: Apache-2.0
"""scripts/generate.py: flags that would change nothing beside others are refused in one line; a draft."""

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
        (["--num_samples=2", "--draft=x"], "--draft=x: guesses ahead of a single sample, printed at once"),
    ],
)
def test_idle_flags_are_refused(flags, line):
    command = [sys.executable, SCRIPT, "--checkpoint=nowhere", "--prompt=a", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"error: {line}\n")


def test_a_draft_changes_how_often_the_model_is_asked_and_no_letter(byte_folder):
    """The model is its own draft here: every guess is right."""
    command = [
        sys.executable,
        SCRIPT,
        f"--checkpoint={byte_folder}",
        "--prompt=ab",
        "--temperature=0",
        "--stream=never",
    ]
    plain, drafted = (
        subprocess.run([*command, "--max_new_tokens=12", *more], capture_output=True, text=True, timeout=300)
        for more in ([], [f"--draft={byte_folder}"])
    )
    assert plain.returncode == 0 and drafted.stdout == plain.stdout
    tokens, passes = (int(word) for word in drafted.stderr.split() if word.isdecimal())
    assert 1 < passes < tokens
