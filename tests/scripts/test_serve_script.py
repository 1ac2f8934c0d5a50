# SPDX-License-Identifier: Apache-2.0
"""scripts/serve.py: a process that answers OpenAI's client and ends on ctrl-C."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).parents[2]


def test_it_answers_and_ends(byte_folder):
    command = [
        sys.executable,
        "scripts/serve.py",
        f"--checkpoint={byte_folder}",
        "--port=0",
        "--slots=2",
        "--length=128",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        try:
            found = next(found for line in server.stderr if (found := re.search(r"running on (http://127\S+)", line)))
            client = openai.OpenAI(base_url=f"{found[1]}/v1", api_key="none", max_retries=0, timeout=120)
            assert [model.id for model in client.models.list()] == ["tiny"]
            ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
            made = client.chat.completions.create(model="tiny", **ask)
            assert made.usage.completion_tokens == 5 or made.choices[0].finish_reason == "stop"
            server.send_signal(signal.SIGINT)
            rest = server.stderr.read()
            assert server.wait(timeout=60) in (0, 130) and "Traceback" not in rest, rest
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--slots=0"], "--slots=0: expected more than 0"),
        (["--checkpont=a"], "did you mean '--checkpoint'?"),
        (["--port=http"], "invalid int value: 'http'"),
    ],
)
def test_mistakes_are_a_line(flags, line):
    command = [sys.executable, "scripts/serve.py", "--checkpoint=nowhere", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1
