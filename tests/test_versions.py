# SPDX-License-Identifier: Apache-2.0
"""Training from an unpacked archive, where nobody installed the package."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import t5x_like
from t5x_like.versions import package_version

ROOT = Path(__file__).parents[1]


def test_versions():
    assert package_version("numpy") == importlib.metadata.version("numpy")
    assert package_version("t5x_like") == t5x_like.__version__ == importlib.metadata.version("t5x_like")
    assert package_version("no-such-package") is None


def test_a_run_from_an_unpacked_archive_trains(tmp_path):
    for name in ("t5x_like", "scripts", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    hidden = tmp_path / "hidden"  # what Python reads at its start hides the installation that tests have
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "found = m.distribution\n"
        "def distribution(name):\n"
        "    if name == 't5x_like':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "m.distribution = distribution\n"
    )
    flags = ["--config=configs/python_small.py", "--workdir=run", "--config.training.tokens=4096"]
    flags += ["--config.training.eval_tokens=4096", "--config.model.num_layers=1", "--config.model.d_model=32"]
    environment = {**os.environ, "PYTHONPATH": f"{hidden}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "scripts/train.py", *flags]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/environment.json").read_text())["packages"]["t5x_like"] == t5x_like.__version__
