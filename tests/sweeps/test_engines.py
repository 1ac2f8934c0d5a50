# SPDX-License-Identifier: Apache-2.0
"""Sweeps on Ray and through submitit, with the real clients on this machine: the points of a sweep on its own cores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5x_like.errors import UserError
from t5x_like.sweeps import engines

ROOT = Path(__file__).parents[2]
CONFIG = """
def get_config():
    return {
        "base": {
            "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
            "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
            "schedule": {"kind": "wsd", "warmup_steps": 8},
            "training": {"batch_size": 8, "eval_tokens": 256, "log_every": 32, "tensorboard": False},
            "execution": {"steps_per_call": 32},
        },
        "sizes": [{"model.d_model": 4}, {"model.d_model": 8}],
        "tokens": [4096, 8192],
        "learning_rates": [0.02],
        "trunks": True,
    }
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "sweep.py"
    path.write_text(CONFIG)
    return path


def command(config, folder, *more):
    return [sys.executable, str(ROOT / "scripts/sweep.py"), f"--config={config}", f"--workdir={folder}", *more]


@pytest.fixture(scope="module")
def points(config, tmp_path_factory):
    """Of the same sweep on this machine's cores."""
    folder = tmp_path_factory.mktemp("sweeps") / "local"
    done = subprocess.run(command(config, folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return (folder / "points.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_the_same_points_byte_for_byte(engine, library, config, points, tmp_path):
    pytest.importorskip(library)
    done = subprocess.run(
        command(config, tmp_path / "sweep", f"--engine={engine}"), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "sweep" / "points.csv").read_bytes() == points
    lineages = [json.loads(path.read_text()).get("lineage") for path in (tmp_path / "sweep").glob("*/summary.json")]
    assert sum(lineage is not None for lineage in lineages) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_killed_and_started_again(engine, library, config, points, tmp_path):
    """After SIGKILL Ray's tasks are gone, and submitit's go on; the next sweep.py ends with the same points."""
    pytest.importorskip(library)
    folder = tmp_path / "sweep"
    words = command(config, folder, f"--engine={engine}", "--workers=1")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 180
    while len(list(folder.glob("*/summary.json"))) < 1:
        assert time.monotonic() < end and process.poll() is None, "no cell ended"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 cells, 0 of them" not in done.stdout
    assert (folder / "points.csv").read_bytes() == points


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--engine=rey"], "error: --engine: 'rey' is not known; accepted: local, ray, slurm; did you mean 'ray'?"),
        (["--slurm.timeout_min=5"], "error: --slurm.timeout_min: is for --engine=slurm, and the engine is 'local'"),
        (["--engine=slurm", "--slurm.timeout_min"], "error: --slurm.timeout_min: has no value; accepted: --slurm."),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words, line, config, tmp_path):
    done = subprocess.run(command(config, tmp_path / "s", *words), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_not_there_is_named(engine, package, monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"--engine={engine}: needs {package}; pip install .*\[{engine}\]"):
        engines.check_engine(engine)
