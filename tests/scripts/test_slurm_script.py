# SPDX-License-Identifier: Apache-2.0
"""scripts/slurm.sh: the step that it starts, and a job that queues itself again."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm.sh"
RUN = ("--config=configs/python_small.py", "--workdir=runs/a b", "--config.sizes=(1, 2)")


def script(*words, **environment):
    words = [SCRIPT, *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run(words, env=clean | environment, capture_output=True, text=True, timeout=60)


def test_a_dry_run_prints_the_step():
    done = script("--dry-run", *RUN)
    assert (done.returncode, done.stderr) == (0, "")
    assert shlex.split(done.stdout) == ["+", "srun", "--kill-on-bad-exit=1", "python", "scripts/train.py", *RUN]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--workdir=a"], "error: missing: --config, --workdir (--help says how)"),
        (["--config=a", "--dry-run"], "error: missing: --config, --workdir (--help says how)"),
        (RUN, "error: not within a Slurm job; start it with sbatch"),
    ],
)
def test_a_mistake_is_one_line(words, expected):
    done = script(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected + "\n")


def test_help():
    assert "sbatch --nodes=4 scripts/slurm.sh" in script("--help").stdout


@pytest.mark.parametrize("code", [0, 1, 130])
def test_a_run_that_was_interrupted_is_queued_again(code, tmp_path):
    """With a Slurm that is not one; its words are noted."""
    for path, content in (
        ("bin/srun", f'#!/usr/bin/env bash\nprintf "%s\\n" "$@" >"{tmp_path}/step"\nexit {code}\n'),
        ("bin/scontrol", f'#!/usr/bin/env bash\necho "$@" >"{tmp_path}/control"\n'),
        ("scripts/setup.sh", f'setup() {{ echo "$1" >"{tmp_path}/setup"; }}\n'),
    ):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        file.chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = script(*RUN, PATH=path, SLURM_JOB_ID="17", SLURM_SUBMIT_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (code, "")
    assert (tmp_path / "setup").read_text() == "cuda\n"
    assert (tmp_path / "step").read_text().splitlines() == [
        "--kill-on-bad-exit=1", "python", "scripts/train.py", *RUN,
    ]  # fmt: skip
    assert (tmp_path / "control").exists() == (code == 130)
    assert code != 130 or (tmp_path / "control").read_text() == "requeue 17\n"
