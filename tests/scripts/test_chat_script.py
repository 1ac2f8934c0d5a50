# SPDX-License-Identifier: Apache-2.0
"""scripts/chat.py: a conversation over standard input; and the tools that it brings along."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.errors import UserError

ROOT = Path(__file__).parents[2]


def chat(folder, said, *flags):
    command = [sys.executable, "scripts/chat.py", f"--checkpoint={folder}", "--max_new_tokens=8", *flags]
    return subprocess.run(command, cwd=ROOT, input=said, capture_output=True, text=True, timeout=300, errors="replace")


def test_a_conversation(byte_folder):
    """The same question after /new gets the same answer, another one within the conversation; old turns are left out of
    one that gets too long, and mistakes do not end it."""
    said = ["Hi", "Hi", "/nothing", "/new", "Hi", *["Hello"] * 6, "x" * 600, "Hi", "/quit", "never read"]
    done = chat(byte_folder, "\n".join(said) + "\n", "--stop=\n", "--length=512", "--system=a")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split("\n")
    assert answers[0] == answers[2] != answers[1] and len(answers) == 3 + 6 + 2 + 1
    first, last = done.stderr.splitlines()[-2:]
    assert first == "/nothing: accepted: /new, /system TEXT, /quit"
    assert last.startswith("error: --length: the last turn leaves no room for 8 tokens")


def test_a_tool_is_run(byte_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("Bern lies on the Aare.\n\nBasel lies on the Rhine.\n")
    flags = ["--tool=calculator", f"--tool=search:{tmp_path}", "--must_call", "--max_new_tokens=400", "--length=8192"]
    done = chat(byte_folder, "What is 3 * 4?\n", *flags, "--seed=2")
    assert done.returncode == 0, done.stderr
    assert "<tool_call>{" in done.stdout and ("[calculator: " in done.stdout or "[search: " in done.stdout)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tool=calculater"], "did you mean 'calculator'?"),
        (["--tool=search:nowhere"], "--tool=search:nowhere: expected search:FOLDER of a folder that exists"),
        (["--filter=runs/spam:1"], "--filter=runs/spam:1: expected DIR:LABEL:P, such as runs/spam:1:0.5"),
        (["--temprature=1"], "did you mean '--temperature'?"),
    ],
)
def test_mistakes_are_a_line(byte_folder, flags, line):
    done = chat(byte_folder, "", *flags)
    assert done.returncode == 2 and line in done.stderr and "Traceback" not in done.stderr


def test_the_calculator():
    from example_tools import calculate

    for expression in ("2 * (3 + 4) - 5 / 2", "-7 // 2 + 7 % 4", "2 ** 10 + 3.5e2", "2 ** -2"):
        assert calculate(expression) == eval(expression)
    assert calculate("sqrt(2) * cos(pi)") == pytest.approx(-(2**0.5))
    for bad in (
        "__import__('os')",
        "a + 1",
        "(1).real",
        "[1][0]",
        "9 ** 9999",
        "'a' * 3",
        "True + 1",
        "2 +",
        "1" * 300,
    ):
        with pytest.raises(UserError):
            calculate(bad)


def test_what_a_tool_says_to_a_mistake(tmp_path):
    from example_tools import example_tool, result_of

    for name, text in {"a.txt": "Bern lies on the Aare.\n\nBasel lies on the Rhine.", "b.md": "the the the"}.items():
        (tmp_path / name).write_text(text)
    tools = [example_tool("calculator"), example_tool(f"search:{tmp_path}")]
    assert result_of(tools, {"name": "calculator", "arguments": {"expression": "1 / 0"}}) == "error: division by zero"
    assert "did you mean 'calculator'?" in result_of(tools, {"name": "calculater", "arguments": {}})
    found = json.loads(result_of(tools, {"name": "search", "arguments": {"query": "the Rhine"}}))
    assert found[0] == {"file": "a.txt", "text": "Basel lies on the Rhine."}
