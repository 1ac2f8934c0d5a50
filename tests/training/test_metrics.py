# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of rates, on a clock that the test turns."""

import json

import pytest

from t5x_like.training.loop import train
from t5x_like.training.metrics import Metrics, Tally


@pytest.fixture
def clock(monkeypatch):
    """Call it to let seconds pass."""
    now = [100.0]
    monkeypatch.setattr("t5x_like.training.metrics.time.monotonic", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def test_rate_is_the_tokens_of_a_call_by_the_time_since_the_call_before(tmp_path, clock):
    metrics = Metrics(tmp_path, Tally(), flops_per_token=10.0, peak=1000.0, tensorboard=False)
    clock(7)
    assert metrics.rate(64) is None  # it compiled
    clock(2)
    assert metrics.rate(64) == 32
    clock(4)
    assert metrics.rate(32) == 8
    metrics.restart_clock()  # an evaluation
    clock(1)
    assert metrics.rate(64) is None
    clock(1)
    assert metrics.rate(64) == 64
    line = metrics.train(Tally(), 0.1, 64.0)
    assert (line["tokens_per_second"], line["mfu"]) == (64.0, 0.64)
    line = metrics.train(Tally(), 0.1, None)
    assert line["tokens_per_second"] is line["mfu"] is None
    metrics.close()


def test_all_lines_of_a_call_have_its_rate(make_run, tmp_path, monkeypatch):
    """Calls of four steps, the last of one; a second passes for each, and no time between the lines of one call."""
    seen = []
    rate = Metrics.rate
    monkeypatch.setattr(Metrics, "rate", lambda self, tokens: seen.append(tokens) or rate(self, tokens))
    now = iter(range(10**6))
    monkeypatch.setattr("t5x_like.training.metrics.time", type("Clock", (), {"monotonic": lambda: float(next(now))}))
    train(make_run("training.steps=9", "training.log_every=2", "execution.steps_per_call=4"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["tokens_per_second"] for line in lines if line["split"] == "train"}
    assert seen == [4 * 64, 4 * 64, 64]
    assert rates == {2: None, 4: None, 6: 256, 8: 256, 9: 64}
