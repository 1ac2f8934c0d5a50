# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of training, evaluating, writing checkpoints and sweeping: the same end, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like.config_files import load_run
from t5x_like.training.checkpoints import load_trained
from t5x_like.training.loop import train

ROOT = Path(__file__).parents[2]
RUN = """
def get_config():
    return {
        "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
        "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 8, "num_heads": 2, "dropout_rate": 0.1},
        "training": {
            "steps": 2000, "batch_size": 4, "eval_tokens": 4096, "log_every": 20, "tensorboard": False,
            "evaluate_every": 40, "checkpoint_every": 20,  # a third of the time each
        },
        "execution": {"steps_per_call": 20},
    }
"""
SWEEP = """
def get_config():
    return {
        "base": {
            "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
            "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
            "schedule": {"kind": "wsd", "warmup_steps": 8},
            "training": {"batch_size": 8, "eval_tokens": 256, "checkpoint_every": 16, "tensorboard": False},
            "execution": {"steps_per_call": 16},
        },
        "sizes": [{"model.d_model": 4}, {"model.d_model": 8}],
        "tokens": [8192, 16384],
        "learning_rates": [0.02],
        "trunks": True,
    }
"""
TIMED = {"tokens_per_second", "mfu"}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


def size(pattern, folder):
    return sum(path.stat().st_size for path in folder.glob(pattern))


def lives(words, folder, pattern, draw, kills):
    """Starts the program until it ends by itself, and kills it up to so many times: `draw()` seconds after it wrote."""
    killed = 0
    while True:
        before = size(pattern, folder)
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        if killed < kills:
            while process.poll() is None and size(pattern, folder) <= before:
                time.sleep(0.01)
            try:
                process.wait(draw())
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
        error = process.communicate(timeout=300)[1]
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, error
            return killed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(config, folder, seconds from the first line of metrics to the end) of a run that nothing befell."""
    place = tmp_path_factory.mktemp("unbroken")
    (place / "run.py").write_text(RUN)
    train(load_run(place / "run.py", []), place / "run")
    assert len(metrics(place / "run")) == 150
    seconds = json.loads((place / "run/summary.json").read_text())["wall_seconds"]
    return place / "run.py", place / "run", seconds


@pytest.mark.parametrize("kills", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_a_run(kills, unbroken, tmp_path):
    config, whole, seconds = unbroken
    generator = random.Random(kills)
    killed = number = 0
    _, _, theirs = load_trained(whole)
    while killed < kills:
        folder = tmp_path / str(number)
        words = [sys.executable, str(ROOT / "scripts/train.py"), f"--config={config}", f"--workdir={folder}"]
        killed += lives(words, folder, "metrics.jsonl", lambda: generator.uniform(0, seconds / 4), kills - killed)
        assert metrics(folder) == metrics(whole)
        _, _, ours = load_trained(folder)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        number += 1


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """(config of a sweep, its points)"""
    place = tmp_path_factory.mktemp("sweep")
    (place / "sweep.py").write_text(SWEEP)
    words = [sys.executable, str(ROOT / "scripts/sweep.py"), f"--config={place}/sweep.py", f"--workdir={place}/sweep"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return place / "sweep.py", (place / "sweep/points.csv").read_bytes()


ENGINES = [("local", 4), *(pytest.param(name, 20, marks=pytest.mark.slow) for name in ("local", "ray", "slurm"))]


@pytest.mark.parametrize(("engine", "kills"), ENGINES)
def test_a_sweep(engine, kills, points, tmp_path):
    """With its workers, where they are its own; a cluster's go on, and the next sweep.py finds what they do."""
    if engine != "local":
        pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine])
    config, expected = points
    generator = random.Random(engine)
    killed = number = 0
    while killed < kills:
        folder = tmp_path / str(number)
        words = [sys.executable, str(ROOT / "scripts/sweep.py"), f"--config={config}", f"--workdir={folder}"]
        words += [f"--engine={engine}", "--workers=1"]
        killed += lives(words, folder, "*/metrics.jsonl", lambda: generator.uniform(0, 3.0), kills - killed)
        assert (folder / "points.csv").read_bytes() == expected
        number += 1
