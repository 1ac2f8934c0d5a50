# SPDX-License-Identifier: Apache-2.0
"""scripts/tpu_vm.sh: what every subcommand would run; a gcloud that is not one runs the workers' commands for real."""

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLICE = ("--name=slice-1", "--zone=us-west4-a")
TPUS = "gcloud compute tpus"
WHERE = "--zone=us-west4-a"
RUN = ("--config=configs/python_small.py", "--workdir=gs://bucket/run")

GCLOUD = """#!/usr/bin/env bash
# Stands in for gcloud: notes its words, answers with the state in $HOME/state, runs --command in $HOME.
printf '%s\\n' "$*" >>"$HOME/called"
case "$*" in
    *"queued-resources describe"*) cat "$HOME/state" 2>/dev/null || exit 1 ;;
    *"queued-resources create"*) echo ACTIVE >"$HOME/state" ;;
    *"queued-resources delete"*) rm "$HOME/state" ;;
    *"tpu-vm ssh"*)
        cd "$HOME"
        for word in "$@"; do case "$word" in --command=*) bash -c "${word#--command=}" ;; esac; done
        ;;
esac
"""


def script(*words, home=None):
    environment = dict(os.environ)
    if home is not None:
        environment |= {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    words = [ROOT / "scripts" / "tpu_vm.sh", *words]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)


def dry(subcommand, *words):
    """The commands that a dry run prints, as words."""
    done = script(subcommand, *SLICE, *words, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert lines and all(line.startswith("+ ") for line in lines)
    return [shlex.split(line[2:]) for line in lines]


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_create(accelerator, runtime):
    expected = f"{TPUS} queued-resources create slice-1 --node-id=slice-1 --accelerator-type={accelerator}"
    version = f"--runtime-version={runtime}"
    assert dry("create", f"--accelerator={accelerator}") == [[*expected.split(), version, WHERE]]
    spot = dry("create", f"--accelerator={accelerator}", "--spot", "--project=p1", "--runtime=r1")
    assert spot == [[*expected.split(), "--runtime-version=r1", "--spot", WHERE, "--project=p1"]]


def test_install_sends_this_checkout_or_takes_a_repository():
    archive, copy, ssh = dry("install")
    assert archive[:2] == ["git", "-C"] and archive[-1] == "HEAD"
    assert copy[:4] == [*TPUS.split(), "tpu-vm"] and copy[6:] == ["slice-1:t5x_like.tar.gz", "--worker=all", WHERE]
    assert copy[5] == archive[5].removeprefix("--output=")
    assert ssh[:7] == [*TPUS.split(), "tpu-vm", "ssh", "slice-1", "--worker=all"]
    assert ssh[7].endswith("tar -xzf t5x_like.tar.gz -C t5x_like && cd t5x_like && . scripts/setup.sh && setup tpu")
    ((*_, command, _),) = dry("install", "--repository=https://example.org/a b.git", "--branch=next")
    assert r"git clone -q https://example.org/a\ b.git t5x_like" in command
    assert "git -C t5x_like checkout -q --detach origin/next" in command


def test_launch_status_logs_and_stop_go_to_the_workers():
    ((*words, command, zone),) = dry("launch", *RUN, "--config.mesh.fsdp=-1")
    assert [*words, zone] == [*TPUS.split(), "tpu-vm", "ssh", "slice-1", "--worker=all", WHERE]
    run = "scripts/train.py --config=configs/python_small.py --workdir=gs://bucket/run --config.mesh.fsdp=-1"
    assert f"setsid nohup .venv/bin/python {run} >>run.log" in command
    describe, ssh = dry("status")
    assert describe == [*TPUS.split(), "queued-resources", "describe", "slice-1", "--format=value(state.state)", WHERE]
    assert "tail -n 1 run.log" in ssh[-2]
    ((*_, worker, command, _),) = dry("logs", "--worker=3", "--follow")
    assert (worker, command) == ("--worker=3", "--command=tail -n 50 -f t5x_like/run.log")
    ((*_, worker, command, _),) = dry("stop")
    assert worker == "--worker=all" and "kill -TERM" in command


def test_resume_deletes_creates_installs_and_launches():
    verbs = [words[3:5] for words in dry("resume", "--accelerator=v6e-8", "--spot", *RUN) if words[0] == "gcloud"]
    assert verbs == [
        ["queued-resources", "delete"],
        ["queued-resources", "create"],
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],
        ["tpu-vm", "ssh"],
    ]


def test_collect_and_delete():
    made, copied = dry("collect", "--workdir=gs://bucket/run", "--out=runs/from tpu")
    assert made == ["mkdir", "-p", "runs/from tpu"]
    assert copied == ["gcloud", "storage", "rsync", "--recursive", "gs://bucket/run", "runs/from tpu"]
    _, copied = dry("collect", "--workdir=runs/small", "--out=here")
    expected = f"{TPUS} tpu-vm scp --recurse --worker=0 slice-1:t5x_like/runs/small here {WHERE}"
    assert copied == expected.split()
    assert dry("delete") == [f"{TPUS} queued-resources delete slice-1 --force --quiet {WHERE}".split()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing: a subcommand; accepted: create, install,"),
        (["crate"], "unknown subcommand 'crate'; accepted: create, install,"),
        (["create", "--zone=us-west4-a"], "missing: --name (--help lists the flags)"),
        (["create", "--name=a"], "missing: --zone (--help lists the flags)"),
        (["create", *SLICE], "missing: --accelerator (--help"),
        (["create", *SLICE, "--accelerator=h100-8"], "--accelerator=h100-8: no runtime version is known for it; give"),
        (["launch", *SLICE, "--workdir=gs://b/r"], "missing: --config (--help"),
        (["launch", *SLICE, "--config=c.py"], "missing: --workdir (--help"),
        (["resume", *SLICE, *RUN], "missing: --accelerator"),
        (["collect", *SLICE, "--workdir=gs://b/r"], "missing: --out (--help"),
        (
            ["status", "--name=my slice", "--zone=us-west4-a"],
            "--name=my slice: expected lower-case letters, digits and",
        ),
        (["status", "--name=Slice", "--zone=us-west4-a"], "--name=Slice: expected"),
        (["status", "--name=a;reboot", "--zone=us-west4-a"], "--name=a;reboot: expected"),
        (["status", "--name=a", "--zone=us west4"], "--zone=us west4: expected a zone, such as us-west4-a"),
        (["logs", *SLICE, "--worker=one"], "--worker=one: expected a number, or all"),
        (["status", *SLICE, "--spott"], "unknown flag '--spott' (--help"),
        (["status", *SLICE, "spot"], "'spot' stands alone; a value belongs to its flag: --flag=value"),
        (["status", *SLICE, "--project="], "--project is empty"),
    ],
)
def test_a_mistake_is_one_line(words, expected):
    done = script(*words, *(["--dry-run"] if words else []))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {expected}") and done.stderr.count("\n") == 1


def test_help():
    done = script("--help")
    assert done.returncode == 0 and "scripts/tpu_vm.sh resume" in done.stdout and "--dry-run" in done.stdout


@pytest.fixture
def home(tmp_path):
    """A home with a gcloud that is not one, and a checkout whose python notes its words and waits."""
    for path, content in (
        ("bin/gcloud", GCLOUD),
        ("t5x_like/.venv/bin/python", '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >>words\nexec sleep 60\n'),
    ):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(content)
        file.chmod(0o755)
    return tmp_path


def test_workers_run_what_was_asked_for_once(home):
    """Quoting survives the way to the worker; a second launch finds the first; stop ends it."""
    words = (*RUN, "--config.sizes=({'a b': \"c\"}, 1)")
    (home / "state").write_text("ACTIVE\n")
    assert script("launch", *SLICE, *words, home=home).returncode == 0
    process = int((home / "t5x_like" / "run.pid").read_text())
    again = script("resume", *SLICE, "--accelerator=v6e-8", *words, home=home)
    assert again.returncode == 0 and again.stdout.splitlines()[-1] == "already running"
    until = time.monotonic() + 20
    while not (home / "t5x_like" / "words").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (home / "t5x_like" / "words").read_text().splitlines() == ["scripts/train.py", *words]
    assert "\nrunning\n" in script("status", *SLICE, home=home).stdout
    script("stop", *SLICE, home=home)
    while Path(f"/proc/{process}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert "not running" in script("stop", *SLICE, home=home).stdout


def test_a_request_that_fails_is_reported(home):
    (home / "bin" / "gcloud").write_text(GCLOUD.replace("echo ACTIVE", "echo FAILED"))
    done = script("create", *SLICE, "--accelerator=v6e-8", home=home)
    assert done.returncode == 2 and done.stderr == "error: slice-1: the request ended as FAILED\n"
    (home / "state").write_text("PROVISIONING\n")
    done = script("resume", *SLICE, "--accelerator=v6e-8", *RUN, home=home)
    assert (
        done.returncode == 2 and done.stderr == "error: slice-1 is PROVISIONING; wait until it is ACTIVE or SUSPENDED\n"
    )
