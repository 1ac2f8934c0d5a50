# SPDX-License-Identifier: Apache-2.0
"""Runs of two real processes with four emulated devices each: the numbers of one process with eight, and their ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from t5x_like.config import MeshConfig
from t5x_like.config_files import load_run
from t5x_like.errors import UserError
from t5x_like.files import write_json
from t5x_like.parallel.local_rows import Share, as_the_first, put_rows, share_of
from t5x_like.parallel.mesh import make_mesh
from t5x_like.strict import to_dict
from t5x_like.training.loop import train
from t5x_like.training.one_writer import AnyProcess, check_same
from t5x_like.training.progress import Silent

ROOT = Path(__file__).parents[2]
slow = pytest.mark.slow
MOST_SECONDS = 60  # for a process to leave after another one died; it takes a fraction of one
CONFIG = """
def get_config():
    return {
        "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
        "model": {"kind": "decoder_only", "num_layers": 1, "d_model": 16, "num_heads": 4},
        "training": {"steps": 4000, "batch_size": 16, "microbatches": 2, "eval_tokens": 256, "checkpoint_every": 8,
                     "evaluate_every": 16, "log_every": 4, "tensorboard": False},
        "execution": {"steps_per_call": 8},
        "mesh": {"data": 2, "fsdp": 4},
    }
"""


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def start(*words):
    """Starts a process with four devices."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = os.environ | {"XLA_FLAGS": " ".join([*flags, "--xla_force_host_platform_device_count=4"])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, words)], env=environment, **pipes)


def endings(processes):
    """(exit code, lines of standard output, lines of standard error) of each."""
    try:
        said = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, out.splitlines(), err.splitlines()) for p, (out, err) in zip(processes, said, strict=True)]


def metrics(folder):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "mfu")} for line in lines]


def assert_same_metrics(got, expected):
    assert len(got) == len(expected) > 0
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), (name, theirs)


def two_and_one(config, folder):
    """Trains a run with two processes, then with this one; returns the second's summary."""
    write_json(folder / "two.json", to_dict(config))
    words = (Path(__file__).parent / "one_of_several.py", free_port(), 2)
    for code, _, err in endings([start(*words, process, folder / "two") for process in (0, 1)]):
        assert code == 0, err
    return train(config, folder / "one")


def test_two_processes_learn_from_what_they_write_as_one_does(make_run, tmp_path):
    """Answers, their rewards, and what prompts are left out follow from all rows, whichever process has them."""
    data = {"kind": "conversations", "messages": None, "source": {"kind": "sums", "below": 3}, "pack": False}
    data |= {"sequence_length": 6, "tokenizer": {"kind": "byte", "specials": ["mask"]}}
    policy = {"kind": "policy", "samples": 32, "max_new_tokens": 1, "passes": 2, "oversample": 2, "pretraining": 0.1}
    how = ("training.batch_size=128", "training.log_every=1", "execution.steps_per_call=2", "model.mlp_dim=32")
    config = make_run(f"data={data}", f"objective={policy}", "mesh.data=2", "mesh.fsdp=4", "training.steps=4", *how)
    two_and_one(config, tmp_path)
    assert_same_metrics(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    assert sum(line["reward"] for line in metrics(tmp_path / "one") if "reward" in line) > 0


@slow  # what the next test runs by default is one of these
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("mesh.tensor=8", "model.num_heads=8", "training.microbatches=2"), id="heads over both"),
        pytest.param(("mesh.pipe=2", "mesh.tensor=4", "training.microbatches=2"), id="stages apart"),
        pytest.param(("mesh.seq=8", "model.dropout_rate=0.1"), id="length over both, dropout"),
        pytest.param(("mesh.data=2", "mesh.seq=2", "mesh.tensor=2"), id="three axes"),
    ],
)
def test_two_processes_train_as_one_does(overrides, make_run, tmp_path):
    """Every line of metrics.jsonl, held-out losses too, within 1e-6: in fact within float32's last digits."""
    config = make_run("training.log_every=1", "training.evaluate_every=2", *overrides)
    expected = two_and_one(config, tmp_path)
    assert_same_metrics(metrics(tmp_path / "two"), metrics(tmp_path / "one"))
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["loss"] == pytest.approx(expected["loss"], rel=1e-6) and summary["status"] == "finished"
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert (environment["process_count"], environment["device_count"]) == (2, 8)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("several") / "tiny.py"
    path.write_text(CONFIG)
    return path


def trainers(config, folder, *overrides, second=()):
    """Starts scripts/train.py twice, as one run; `second` is said to process 1 only."""
    words = [ROOT / "scripts" / "train.py", f"--config={config}", f"--workdir={folder}", *overrides]
    words += [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    return start(*words, "--process_id=0"), start(*words, "--process_id=1", *second)


class StopsAt(Silent):
    """A reporter that tells its own process to stop when a step was done."""

    def __init__(self, step):
        self.step = step

    def update(self, step, loss, tokens_per_second):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def wait_for_a_checkpoint(folder, processes):
    while not [path for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]:
        assert all(process.poll() is None for process in processes), endings(processes)
        time.sleep(0.1)


def test_processes_end_together_and_the_run_goes_on(config, tmp_path):
    """kill -9 of one; SIGTERM to one of the next two; then one process with eight devices goes on.

    Every line that the four processes wrote, held-out losses too, is what one process would have written.
    """
    folder = tmp_path / "run"
    first, second = trainers(config, folder)
    wait_for_a_checkpoint(folder, (first, second))
    second.kill()
    killed = time.monotonic()
    first.wait(timeout=2 * MOST_SECONDS)
    assert time.monotonic() - killed < MOST_SECONDS
    (code, _, err), _ = endings((first, second))
    assert code == 1, err
    (line,) = [line for line in err if line.startswith("error: ")]  # Gloo, too, may say that it gives up
    assert re.fullmatch(r"error: process 1 of 2 \(.+\) is gone without a word: .* last checkpoint", line)
    assert not (folder / "summary.json").exists()

    first, second = trainers(config, folder)
    assert "2 processes on 1 host, by flags, met at localhost:" in first.stdout.readline()
    while not (line := first.stdout.readline()).startswith("step "):
        assert line, endings((first, second))
    second.send_signal(signal.SIGTERM)
    (code, out, err), (other_code, other_out, other_err) = endings((first, second))
    assert (code, other_code) == (130, 130), (err, other_err)
    assert out[-1].startswith("interrupted at step ") and not [line for line in other_out if "step" in line]
    step = json.loads((folder / "summary.json").read_text())["steps"]
    assert step % 8 == 0 and 8 < step < 4000
    assert str(step) in [path.name for path in (folder / "checkpoints").iterdir()]

    alone = load_run(str(config), [])
    stops = [train(alone, each, reporter=StopsAt(step + 16)) for each in (folder, tmp_path / "unbroken")]
    assert [stop["steps"] for stop in stops] == 2 * [stops[0]["steps"]] and stops[0]["steps"] >= step + 16
    assert_same_metrics(metrics(folder), metrics(tmp_path / "unbroken"))


def test_a_mistake_of_one_process_is_a_line_of_each(config, tmp_path):
    processes = trainers(config, tmp_path / "run", second=("--config.seed=1",))
    (code, _, err), (other_code, _, other_err) = endings(processes)
    line = "the config of process 1 is not that of process 0"
    assert (code, other_code) == (2, 2)
    assert other_err == [f"error: {line}"]
    assert len(err) == 1 and re.fullmatch(rf"error: process 1 of 2 \(.+\): {line}", err[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("axes", "rows", "expected"),
    [
        ({"data": 8}, ("data",), [Share(0, 2), Share(1, 2)]),
        ({"data": 2, "tensor": 4}, ("data",), [Share(0, 2), Share(1, 2)]),
        ({"data": 4, "fsdp": 2}, ("data", "fsdp"), [Share(0, 2), Share(1, 2)]),
        ({"tensor": 8}, (), [Share(0, 1), Share(0, 1)]),
        ({"tensor": 2, "data": 4}, ("data",), [Share(0, 1), Share(0, 1)]),  # tensor lies across the processes
        ({"fsdp": 2, "data": 4}, ("data", "fsdp"), [Share(0, 1), Share(0, 1)]),  # every other row
    ],
)
def test_shares_follow_from_where_devices_lie(axes, rows, expected):
    """Devices 0 to 3 are taken for one process's and the others for another's; three processes have 2, 4 and 2."""
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    batch = NamedSharding(mesh, PartitionSpec(rows or None))
    devices = jax.devices()
    assert [share_of(batch, frozenset(mine)) for mine in (devices[:4], devices[4:])] == expected
    for mine in (devices[:2], devices[2:6], devices[6:]):
        share = share_of(batch, frozenset(mine))
        whole = np.arange(8)
        has = np.split(whole, share.parts)[share.part]
        places = batch.devices_indices_map((8,))
        assert all(np.isin(whole[places[device]], has).all() for device in mine)


@pytest.mark.parametrize(("sizes", "described"), [({"data": 4}, "data=4 takes 4"), ({}, "all axes 1 takes 1")])
def test_several_processes_need_a_mesh_of_all_devices(sizes, described, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    expected = (
        f"mesh: {described} devices, the 2 processes have 8 cpu devices; accepted: a mesh of all of them, such as -1 "
        "on one axis"
    )
    with pytest.raises(UserError, match="^" + re.escape(expected) + "$"):
        make_mesh(MeshConfig(**sizes))
    assert make_mesh(MeshConfig(tensor=2, data=-1)).shape["data"] == 4


def test_a_single_process_agrees_with_itself():
    check_same({"the config": "x"})
    assert as_the_first(3) == 3
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    assert [int(AnyProcess(mesh)(here)) for here in (True, False)] == [8, 0]


def test_rows_are_put_where_the_sharding_says():
    """Of a batch that is whole here, each device gets its rows and its part of their length."""
    mesh = jax.make_mesh((4, 2), ("data", "seq"), axis_types=(AxisType.Auto,) * 2)
    where = NamedSharding(mesh, PartitionSpec(None, "data", "seq"))
    batch = np.arange(3 * 8 * 6).reshape(3, 8, 6)
    share = share_of(NamedSharding(mesh, PartitionSpec("data")))
    assert share == Share(0, 1)
    put = put_rows({"tokens": batch}, share, {"tokens": where}, leading=1)["tokens"]
    np.testing.assert_array_equal(put, batch)
    assert {shard.data.shape for shard in put.addressable_shards} == {(3, 2, 3)}
