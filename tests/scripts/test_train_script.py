# SPDX-License-Identifier: Apache-2.0
"""scripts/train.py: exit codes, one line for a mistake, and SIGTERM to a real process."""

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.config_files import load_run
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.startup import process_started

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "train.py"
CONFIG = """
def get_config():
    return {
        "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
        "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 8, "num_heads": 2},
        "training": {"steps": 2000, "batch_size": 4, "eval_tokens": 256, "log_every": 8, "tensorboard": False},
        "execution": {"steps_per_call": 8},
    }
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program in this process: (exit code, standard output, standard error)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return caught.value.code, *capsys.readouterr()

    return call


def test_help(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "--config" in out and "--workdir" in out and "python scripts/train.py" in out


def test_a_run_from_start_to_finish(run, config, tmp_path):
    code, out, err = run(f"--config={config}", f"--workdir={tmp_path / 'run'}", "--config.training.steps=3")
    assert (code, err) == (0, "")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    loss = f"held-out loss {summary['loss']:.4f} +- {summary['loss_stderr']:.4f}"
    assert out.splitlines()[-1] == f"finished at step 3, 96 tokens, {loss}: {tmp_path / 'run'}"
    assert out.splitlines()[0].startswith("step 3/3  loss ")
    assert out.splitlines()[-2] == f"the first step was done {summary['startup_seconds']:.1f} s after the start"
    assert 0 < summary["startup_seconds"] < time.monotonic() - process_started()


def test_a_run_that_diverges_exits_with_1(run, config, tmp_path):
    rate = ("--config.optimizer.kind=adamw", "--config.optimizer.learning_rate=1e38", "--config.training.steps=200")
    code, out, _ = run(f"--config={config}", f"--workdir={tmp_path / 'run'}", *rate)
    assert code == 1
    assert out.splitlines()[-1].startswith("diverged at step ")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--workdir=DIR"], "error: missing: --config (--help lists the flags)"),
        (["--config=CONFIG"], "error: missing: --workdir (--help lists the flags)"),
        (["--config=CONFIG", "--workdr=DIR"], "error: unknown flag '--workdr'; did you mean '--workdir'?"),
        (["--config=nowhere.py", "--workdir=DIR"], "error: --config=nowhere.py: no such file"),
        (["--config=CONFIG", "--workdir=DIR", "--config.model.d_modle=8"], "error: model.d_modle: no such field"),
        (["--config=CONFIG", "--workdir=DIR", "--config.model.num_heads=3"], "error: model.num_heads: 3 heads do not"),
        (
            ["--config=CONFIG", "--workdir=DIR", "--config.training.log_every=5 minutes"],
            "error: training.log_every: '5 minutes' has no known unit; accepted: a whole number of steps, or",
        ),
        (
            [
                "--config=CONFIG",
                "--workdir=DIR",
                "--config.evaluation.docs.kind=language_model",
                "--config.evaluation.docs.source.kind=text_files",
            ],
            "error: evaluation.docs.source.pattern: is empty; give a glob pattern",
        ),
        (["--config=CONFIG", "--workdir=DIR", "--config.mesh.data=99"], "error: mesh: data=99 needs 99 devices, this"),
        (
            ["--config=CONFIG", "--workdir=DIR", "--config.model.vocab_size=3"],
            "error: model.vocab_size: 3 is below the",
        ),
        (["--config=CONFIG", "--workdir=FILE"], "error: FILE: is a file; --workdir must name a folder"),
        (["--config=CONFIG", "--workdir=FILE/run"], "error: FILE/run: cannot be made: Not a directory; choose another"),
    ],
)
def test_a_users_mistake_is_one_line_and_writes_nothing(words, expected, run, config, tmp_path):
    file = tmp_path / "file"
    file.touch()
    places = {"CONFIG": str(config), "DIR": str(tmp_path / "run"), "FILE": str(file)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
        expected = expected.replace(name, place)
    code, out, err = run(*words)
    assert code == 2, (out, err)
    assert err.startswith(expected) and err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_sigterm_saves_and_the_same_command_goes_on(config, tmp_path):
    """The only way to interrupt a run that counts: a process of its own, ended from outside."""
    command = [sys.executable, str(SCRIPT), f"--config={config}", f"--workdir={tmp_path / 'broken'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("step 8/2000  loss ")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from there" in out
    assert out.splitlines()[-1].startswith("interrupted at step ")
    assert json.loads((tmp_path / "broken" / "summary.json").read_text())["status"] == "interrupted"

    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("resuming from step ")
    config = load_run(str(config))
    train(config, tmp_path / "unbroken")
    states, logs = [], []
    for folder in (tmp_path / "broken", tmp_path / "unbroken"):
        checkpoints = Checkpoints(folder / "checkpoints")
        states.append(checkpoints.restore(program_for(config).abstract_state)[0])
        checkpoints.close()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logs.append([{name: line[name] for name in line if name not in ("tokens_per_second", "mfu")} for line in lines])
    for got, expected in zip(jax.tree.leaves(states[0]), jax.tree.leaves(states[1]), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert logs[0] == logs[1]
