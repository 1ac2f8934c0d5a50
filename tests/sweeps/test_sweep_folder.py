# SPDX-License-Identifier: Apache-2.0
"""Which folders a sweep accepts. No worker is started."""

import dataclasses
import fcntl
import json
from pathlib import Path

import pytest

from t5x_like.errors import UserError
from t5x_like.strict import convert
from t5x_like.sweeps.design import SweepConfig, cells
from t5x_like.sweeps.execute import _Execution, _opened, run_sweep

BASE = {
    "data": {"kind": "markov", "sequence_length": 4, "num_symbols": 8},
    "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 1},
    "training": {"batch_size": 2},
}


def sweep(tokens=(64, 128), **base):
    return SweepConfig(
        base={**BASE, **base}, sizes=({"model.d_model": 4}, {"model.d_model": 8}), tokens=tokens, learning_rates=(0.01,)
    )


def enter(folder, of):
    with _opened(folder, of, cells(of)):
        pass


@pytest.fixture
def folder(tmp_path):
    """A sweep's folder in which the first cell has ended."""
    enter(tmp_path / "sweep", sweep())
    run = tmp_path / "sweep" / cells(sweep())[0].run
    run.mkdir()
    (run / "summary.json").write_text(json.dumps({"status": "finished"}))
    return tmp_path / "sweep"


def test_a_grid_may_grow(folder):
    enter(folder, sweep(tokens=(64, 128, 256)))
    assert len(json.loads((folder / "sweep.json").read_text())["cells"]) == 6


def test_a_grid_may_lose_only_cells_that_have_not_ended(folder):
    before = (folder / "sweep.json").read_bytes()
    with pytest.raises(UserError, match="this grid lacks 1 cells that are already there, such as n"):
        enter(folder, sweep(tokens=(128,)))
    assert (folder / "sweep.json").read_bytes() == before
    enter(folder, sweep(tokens=(64,)))


@pytest.mark.parametrize("base", [{"training": {"batch_size": 4}}, {"optimizer": {"kind": "adamw", "b2": 0.5}}])
def test_another_base_is_another_sweep(folder, base):
    with pytest.raises(UserError, match="holds the cells of another sweep"):
        enter(folder, sweep(**base))


def test_execution_and_logging_may_change(folder):
    enter(folder, sweep(training={"batch_size": 2, "log_every": 3}, execution={"steps_per_call": 7}))


def test_changed_data_is_refused(folder):
    content = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**content, "fingerprint": "0123"}))
    with pytest.raises(UserError, match="trained on data 0123, which has changed since"):
        enter(folder, sweep())


def test_a_folder_in_use_is_refused(folder):
    class Reporter:
        pass

    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another sweep\.py is at work there"):
            run_sweep(sweep(), folder, Reporter())


def test_what_a_kill_leaves_of_the_first_write_is_no_occupant(tmp_path):
    (tmp_path / ".sweep.json.x1").write_text("{")
    enter(tmp_path, sweep())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no sweep"):
        enter(tmp_path / "other", sweep())


def test_an_idle_workers_end_is_no_news(tmp_path):
    """A worker that had no cell left may end before the others do."""
    execution = _Execution(tmp_path, sweep(), cells(sweep()), [], pool=None, reporter=None)
    execution._ended(1, {"gone": "worker 1 ended with code 0"})
    assert execution.errors == []


class Jobs:
    """A pool that only notes what it is given."""

    def __init__(self, workers):
        self.logs, self.given = range(workers), []

    def send(self, worker, job):
        self.given.append(job)


@pytest.mark.parametrize("workers", [1, 2])
def test_arms_take_turns(workers, tmp_path):
    """Size by size: so neither arm's largest runs wait for the other's smallest."""
    sizes = [{"model.d_model": width} for width in (4, 8, 12)]
    arms = {"one": {}, "two": {"model": {"num_layers": 2}}}
    content = {"base": BASE, "sizes": sizes, "tokens": [64, 128], "learning_rates": [0.01], "arms": arms}
    of = convert(SweepConfig, content)
    pool = Jobs(workers)
    execution = _Execution(tmp_path, of, cells(of), cells(of), pool=pool, reporter=None)
    for turn in range(12):
        execution._give(turn % workers)
    given = [Path(json.loads(job)["run"]).name.partition("_")[0] for job in pool.given]
    assert len(set(pool.given)) == 12
    for done in range(4, 12, 4):  # a size of each arm
        assert given[:done].count("one") == given[:done].count("two") == done / 2


def test_an_arm_may_be_added(folder):
    """But not to a sweep without arms: its cells have no arm's name."""
    with pytest.raises(UserError, match="this grid lacks 1 cells that are already there"):
        enter(folder, dataclasses.replace(sweep(), arms={"one": {}}))
    other = folder.parent / "arms"
    enter(other, dataclasses.replace(sweep(), arms={"one": {}}))
    enter(other, dataclasses.replace(sweep(), arms={"one": {}, "two": {"optimizer": {"kind": "lion"}}}))
    assert len(json.loads((other / "sweep.json").read_text())["cells"]) == 8
