# SPDX-License-Identifier: Apache-2.0
"""scripts/sweep.py: a small sweep run in one go, and the same one killed midway and started again."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5x_like.data.pipeline import build_dataset
from t5x_like.sweeps.design import cells, load_sweep

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "scripts" / "sweep.py"
# Two arms of a size each, two budgets, and a learning rate that no run survives.
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
        "arms": {"narrow": {"sizes": [{"model.d_model": 4}]}, "wide": {}},
        "sizes": [{"model.d_model": 8}],
        "tokens": [4096, 8192],
        "learning_rates": [0.02, 1e38],
        "params_column": "params_total",
        "trunks": True,
    }
"""
COLUMNS = (
    "params,tokens,loss,loss_stderr,flops,params_total,params_nonembedding,params_active,unique_tokens,family,run,seed,"
    "learning_rate,status,trunk"
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "sweep.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def design(config):
    return cells(load_sweep(str(config)))


def command(config, folder):
    return [sys.executable, str(SCRIPT), f"--config={config}", f"--workdir={folder}"]


@pytest.fixture(scope="module")
def unbroken(config, tmp_path_factory):
    """(folder, what the program printed)"""
    folder = tmp_path_factory.mktemp("sweeps") / "unbroken"
    done = subprocess.run(command(config, folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def points(folder):
    return list(csv.DictReader((folder / "points.csv").read_text().splitlines()))


def test_points_have_a_line_for_every_cell(unbroken, design):
    folder, _ = unbroken
    assert (folder / "points.csv").read_text().splitlines()[0] == COLUMNS
    rows = points(folder)
    assert [row["run"] for row in rows] == [cell.run for cell in design]
    for row, cell in zip(rows, design, strict=True):
        diverges = cell.config.optimizer.learning_rate == 1e38
        assert row["status"] == ("diverged" if diverges else "finished")
        assert row["params"] == row["params_total"] == str(cell.params["params_total"])
        assert row["family"] == cell.arm == {4: "narrow", 8: "wide"}[cell.config.model.d_model]
        assert float(row["learning_rate"]) == cell.config.optimizer.learning_rate
        assert json.loads((folder / cell.run / "config.json").read_text())["seed"] == 0
        if diverges:
            assert (row["loss"], row["loss_stderr"]) == ("nan", "")
            summary = json.loads((folder / cell.run / "summary.json").read_text())
            assert int(row["tokens"]) == cell.config.training.tokens > summary["tokens"]  # the cell it belongs to
        else:
            summary = json.loads((folder / cell.run / "summary.json").read_text())
            assert float(row["loss"]) == summary["loss"]  # every digit
            assert float(row["loss_stderr"]) == summary["loss_stderr"] > 0
            assert float(row["flops"]) == cell.flops
            assert int(row["tokens"]) == int(row["unique_tokens"]) == cell.config.training.tokens


def test_cells_of_one_size_share_their_first_steps_and_nothing_changes(config, unbroken, design, tmp_path):
    """The same cells, each from its own first step, give the same points."""
    folder, _ = unbroken
    summaries = [json.loads((folder / cell.run / "summary.json").read_text()) for cell in design]
    parents = [summary.get("lineage", {}).get("run") for summary in summaries]
    assert parents == [None, None, design[0].run, None, None, None, design[4].run, None]  # half of them diverge
    assert [cell.first_step for cell in design] == [0, 0, 51, 51] * 2
    apart = subprocess.run(
        [*command(config, tmp_path / "apart"), "--config.trunks=False"], capture_output=True, text=True, timeout=300
    )
    assert apart.returncode == 0, apart.stderr
    shared = points(folder)
    assert [row.pop("trunk") for row in shared] == [cell.parent or cell.run for cell in design]
    assert points(tmp_path / "apart") == shared  # every digit


def test_sweep_json_describes_the_design(unbroken, design):
    content = json.loads((unbroken[0] / "sweep.json").read_text())
    assert content["format"] == 1
    assert content["params_column"] == "params_total"
    assert content["exact_entropy"] == build_dataset(design[0].config.data, 0).exact_entropy
    assert content["cells"] == [cell.run for cell in design]
    assert content["design"]["tokens"] == [4096, 8192]


def test_every_ending_is_told(unbroken, design):
    folder, out = unbroken
    lines = out.splitlines()
    assert lines[0] == "8 cells, 0 of them already there"
    assert lines[-1] == f"points: {folder}/points.csv"
    for cell in design:
        (line,) = [line for line in lines if cell.run in line]
        assert ("diverged" in line) == (cell.config.optimizer.learning_rate == 1e38)


def _children(pid):
    """Processes that `pid` has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")
def test_killed_and_started_again(config, unbroken, design, tmp_path):
    """Its workers end with it; only what is missing runs; points.csv is that of the unbroken sweep, byte for byte."""
    folder = tmp_path / "sweep"
    process = subprocess.Popen(command(config, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        path = folder / "points.csv"
        _wait(lambda: path.is_file() and path.read_text().count("\n") > 1, 180, "no cell ended")
        workers = _children(process.pid)
        assert workers
        assert all(map(_alive, workers))
    finally:
        process.kill()
        process.wait()
    _wait(lambda: not any(map(_alive, workers)), 60, "workers outlive the sweep")

    ended = {}
    for cell in design:
        summary = folder / cell.run / "summary.json"
        if summary.is_file() and json.loads(summary.read_text())["status"] in ("finished", "diverged"):
            ended[summary] = summary.stat().st_mtime_ns
    assert 1 <= len(ended) < len(design), "killed too late to test anything"
    done = subprocess.run(command(config, folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"8 cells, {len(ended)} of them already there"
    assert {summary: summary.stat().st_mtime_ns for summary in ended} == ended
    assert path.read_bytes() == (unbroken[0] / "points.csv").read_bytes()


def test_a_sweep_behind_an_ampersand_ends_by_sigterm(config, tmp_path):
    """A shell has ctrl-C ignored there; workers save and end with it."""
    process = subprocess.Popen(
        command(config, tmp_path / "sweep"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        _wait(lambda: list((tmp_path / "sweep").glob("*/config.json")), 120, "no cell began")
        process.terminate()
        assert process.wait(timeout=90) == 130
    finally:
        process.kill()


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program in this process: (exit code, standard output, standard error)."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return caught.value.code, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, before)


def test_a_finished_sweep_starts_no_worker(run, config, unbroken):
    folder, _ = unbroken
    logs = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "points" not in path.name}
    before = (folder / "points.csv").read_bytes()
    code, out, err = run(f"--config={config}", f"--workdir={folder}")
    assert (code, err) == (0, "")
    first, saved, last = out.splitlines()
    assert (first, last) == ("8 cells, 8 of them already there", f"points: {folder}/points.csv")
    assert re.fullmatch(r"first steps that runs share: 27% of \S+ FLOPs saved", saved)  # 51 of 64 and 128 steps
    assert (folder / "points.csv").read_bytes() == before
    changed = {path for path, time in logs.items() if path.stat().st_mtime_ns != time}
    assert changed <= {folder / "sweep.json"}


def test_help(run):
    code, out, _ = run("--help")
    assert code == 0 and "--config" in out and "python scripts/sweep.py" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config=CONFIG"], "error: missing: --workdir"),
        (["--config=CONFIG", "--workdir=DIR", "--config.seds=(0,1)"], "error: seds: no such field; accepted: base,"),
        (
            ["--config=CONFIG", "--workdir=DIR", "--config.base.model.num_heads=3"],
            "error: base.model.num_heads: 3 heads",
        ),
        (["--config=TRAIN", "--workdir=DIR"], "error: --config=TRAIN: is no sweep (it has no field `base`); train.py"),
        (["--config=CONFIG", "--workdir=OTHER"], "error: OTHER: is not empty and holds no sweep; choose another"),
        (["--config=CONFIG", "--workdir=FILE"], "error: FILE: "),
        (
            ["--config=CONFIG", "--workdir=SWEEP", "--config.base.data.process_seed=1"],
            "error: SWEEP: holds the cells of another sweep; choose another --workdir",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_writes_nothing(words, expected, run, config, unbroken, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    places = {
        "CONFIG": config, "DIR": tmp_path / "run", "OTHER": tmp_path / "other", "SWEEP": unbroken[0],
        "FILE": tmp_path / "other" / "thesis.tex", "TRAIN": ROOT / "configs" / "markov_tiny.py",
    }  # fmt: skip
    for name, place in places.items():
        words = [word.replace(f"={name}", f"={place}") for word in words]
        expected = expected.replace(f"={name}", f"={place}").replace(f" {name}:", f" {place}:")
    files = [path for folder in (unbroken[0], tmp_path) for path in folder.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in files}
    code, out, err = run(*words)
    assert code == 2, (out, err)
    assert err.startswith(expected) and err.count("\n") == 1, err
    assert before == {path: path.stat().st_mtime_ns for path in files}
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="workers are pinned on Linux only")
def test_one_device_runs_get_a_worker_for_every_core(design, config):
    from t5x_like.sweeps.execute import worker_cores

    assert worker_cores(design[0]) == sorted(os.sched_getaffinity(0))
    on_a_mesh = load_sweep(str(config), ["base.mesh.data=2"])
    assert worker_cores(cells(on_a_mesh)[0]) == [None]
