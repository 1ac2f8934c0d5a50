# SPDX-License-Identifier: Apache-2.0
"""scripts/chat.py: a conversation over standard input; and the tools that it brings along."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_like.data.tokenizers import ByteTokenizer
from t5x_like.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained LLaMA of 300 tokens, as Hugging Face writes it, that knows bytes."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    source, made = ROOT / "tests/golden/hf/llama_single", tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(source, made)
    config = json.loads((made / "config.json").read_text())
    config |= {"vocab_size": 300, "max_position_embeddings": 2048, "eos_token_id": 0, "bos_token_id": 0}
    (made / "config.json").write_text(json.dumps(config))
    arrays = load_file(made / "model.safetensors")
    table = np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32) / 4  # no likely tokens
    table[ord('"') + 1] = table[ord("}") + 1]  # which follows itself often: texts of JSON end
    save_file(arrays | {"model.embed_tokens.weight": table}, made / "model.safetensors", metadata={"format": "pt"})
    ByteTokenizer().save(made / "tokenizer.json")
    return made


def chat(folder, said, *flags):
    command = [sys.executable, "scripts/chat.py", f"--checkpoint={folder}", "--max_new_tokens=8", *flags]
    return subprocess.run(command, cwd=ROOT, input=said, capture_output=True, text=True, timeout=300, errors="replace")


def test_a_conversation(folder):
    """The same question after /new gets the same answer, another one within the conversation; mistakes go on."""
    once = chat(folder, "Hi\n").stdout
    done = chat(folder, "Hi\nHi\n/nothing\n/new\nHi\n/quit\nnever read\n")
    assert done.returncode == 0, done.stderr
    assert len(once) > 5 and done.stdout.startswith(once) and done.stdout.endswith(once)
    assert len(done.stdout) > 2 * len(once) and done.stdout != 3 * once
    assert done.stderr.splitlines()[-1] == "/nothing: accepted: /new, /system TEXT, /quit"


def test_old_turns_are_left_out(folder):
    done = chat(folder, "Hello\n" * 6 + "x" * 300 + "\nHi\n", "--length=192", "--system=a")
    assert done.returncode == 0 and done.stdout.count("\n") >= 7
    assert "error: --length: the last turn leaves no room for 8 tokens" in done.stderr


def test_a_tool_is_run(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("Bern lies on the Aare.\n\nBasel lies on the Rhine.\n")
    flags = ["--tool=calculator", f"--tool=search:{tmp_path}", "--must_call", "--max_new_tokens=400", "--length=8192"]
    done = chat(folder, "What is 3 * 4?\n", *flags, "--seed=2")
    assert done.returncode == 0, done.stderr
    assert "<tool_call>{" in done.stdout and ("[calculator: " in done.stdout or "[search: " in done.stdout)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tool=calculater"], "did you mean 'calculator'?"),
        (["--tool=search:nowhere"], "--tool=search:nowhere: expected search:FOLDER of a folder that exists"),
        (["--temprature=1"], "did you mean '--temperature'?"),
    ],
)
def test_mistakes_are_a_line(folder, flags, line):
    done = chat(folder, "", *flags)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1


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
