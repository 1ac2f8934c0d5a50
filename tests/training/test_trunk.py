# SPDX-License-Identifier: Apache-2.0
"""A run that starts from another's first steps is the run that takes them itself, bit for bit."""

import json

import jax
import numpy as np
import pytest

from t5x_like.config_files import load_run
from t5x_like.training.checkpoints import Checkpoints
from t5x_like.training.loop import train
from t5x_like.training.program import program_for
from t5x_like.training.trunk import Trunk, shared_steps

RUN = [
    "schedule={'kind':'wsd','warmup_steps':4}", "training.batch_size=4", "training.log_every=4",
    "training.tensorboard=False", "execution.steps_per_call=5", "model.dropout_rate=0.1", "data.sequence_length=8",
    "training.eval_tokens=256",
]  # fmt: skip


def config(*changes):
    return load_run("configs/markov_tiny.py", [*RUN, "training.tokens=None", *changes])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("{'kind':'wsd','warmup_steps':4}", 40),
        ("{'kind':'wsd','warmup_steps':4,'decay_fraction':0.5}", 25),
        ("{'kind':'constant','warmup_steps':4}", 50),
        ("{'kind':'cosine','warmup_steps':4}", 4),
        ("{'kind':'wsd','warmup_fraction':0.1}", 0),
    ],
)
def test_steps_that_a_longer_run_takes_too(schedule, expected):
    assert shared_steps(config("training.steps=50", f"schedule={schedule}")) == expected


def test_a_run_from_a_trunk_is_the_whole_run(tmp_path):
    short, long = config("training.steps=20"), config("training.steps=30")
    keep_at = shared_steps(short)
    train(short, tmp_path / "alone")
    train(short, tmp_path / "short", trunk=Trunk(keep_at))
    train(long, tmp_path / "whole")
    summary = train(long, tmp_path / "branch", trunk=Trunk(shared_steps(long), tmp_path / "short"))
    assert summary["lineage"] == {"run": "short", "step": keep_at} and keep_at == 16
    for one, other, run in (("short", "alone", short), ("branch", "whole", long)):
        assert state(run, tmp_path / one) == state(run, tmp_path / other)
        here, there = (lines(tmp_path / name) for name in (one, other))
        assert here == there[-len(here) :]
    assert lines(tmp_path / "branch")[0]["step"] == keep_at + 4


def test_a_branch_goes_on_where_it_stopped_and_begins_by_itself_without_a_trunk(tmp_path):
    run = config("training.steps=12")
    train(run, tmp_path / "whole")
    (tmp_path / "diverged").mkdir()
    summary = train(run, tmp_path / "branch", trunk=Trunk(shared_steps(run), tmp_path / "diverged"))
    assert "lineage" not in summary
    assert state(run, tmp_path / "branch") == state(run, tmp_path / "whole")


def state(run, folder):
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        restored, _ = checkpoints.restore(program_for(run).abstract_state)
    finally:
        checkpoints.close()
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(restored)]


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in ("tokens_per_second", "mfu")} for line in found]
