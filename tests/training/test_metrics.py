# SPDX-License-Identifier: Apache-2.0
"""What is counted, rates on a clock that the test turns, and what TensorBoard reads."""

import json
import math
import time

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from t5x_like.data.packing import count_targets
from t5x_like.training.loop import _count_everywhere, train
from t5x_like.training.metrics import Metrics, Tally
from t5x_like.training.stopwatch import Stopwatch, goodput
from t5x_like.training.tensorboard import EventFile, _masked_crc


@pytest.fixture
def clock(monkeypatch):
    """Call it to let seconds pass."""
    now = [100.0]
    monkeypatch.setattr("t5x_like.training.stopwatch.time.monotonic", lambda: now[0])

    def sleep(seconds):
        now[0] += seconds

    return sleep


def test_a_rate_covers_all_calls_since_the_last_line(clock):
    """Calls of 64 tokens, waited for from half a second before each comes back."""
    watch = Stopwatch()

    def call(seconds, tokens=64):
        clock(seconds - 0.5)
        asked = watch.now()
        clock(0.5)
        watch.returned(tokens, asked)

    call(7)
    assert watch.take_rate() is watch.busy_share is None  # it compiled
    call(2)
    assert watch.take_rate() == 32
    call(2)
    call(4, tokens=32)
    assert watch.take_rate() == 96 / 6
    call(2)
    with watch.aside("evaluation"):  # in the middle of an interval
        clock(100)
    call(1)
    assert watch.take_rate() == 128 / 3
    assert watch.take_rate() is None
    assert (watch.calling, watch.waiting) == (2 + 2 + 4 + 2 + 1, 5 * 0.5)
    assert watch.busy_share == 1 - 2.5 / 11
    assert watch.stall_share == 0
    clock(0.25)
    watch.sending(idle=False)  # the call before is still at work
    assert watch.stall_share == 0
    clock(0.5)
    watch.sending(idle=True)
    assert watch.stall_share == 0.75 / 11
    with watch.aside("checkpoint"):
        clock(5)
    clock(3)
    spent = watch.spent()
    assert spent == {"start": 7, "input": 0.75, "step": 10.25, "evaluation": 100, "checkpoint": 5, "other": 3.75}
    assert goodput(spent) == 10.25 / 126.75 and goodput({}) is None


def test_mfu_is_the_rate_by_the_peak(tmp_path):
    metrics = Metrics(tmp_path, Tally(), flops_per_token=10.0, peak=1000.0)
    line = metrics.train(Tally(), 0.1, 64.0)
    assert (line["tokens_per_second"], line["mfu"]) == (64.0, 0.64)
    line = metrics.train(Tally(), 0.1, None)
    assert line["tokens_per_second"] is line["mfu"] is None
    metrics.close()


def test_the_rates_of_a_run(make_run, tmp_path, monkeypatch):
    """Calls of four steps, the last of one. The clock counts how often it is read: twice a call."""
    now = iter(range(10**6))
    monkeypatch.setattr(Stopwatch, "now", lambda self: float(next(now)))
    monkeypatch.setattr(Stopwatch, "sending", lambda self, idle: None)
    config = make_run("training.steps=21", "training.log_every=6", "execution.steps_per_call=4")
    train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["tokens_per_second"] for line in lines if line["split"] == "train"}
    # calls end at steps 4, 8, 12, 16, 20 and 21; the first is not timed; 18 waits for the calls of 16 and 20
    assert rates == {6: 4 * 64 / 2, 12: 4 * 64 / 2, 18: 8 * 64 / 4, 21: 64 / 2}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["busy_share"] == 0.5


def test_tokens_are_counted_one_by_one():
    """Weights that are no whole numbers, and more tokens than float32 can tell apart."""
    tally = Tally()
    tally.add({"loss": (2.0, 0.25)}, tokens=3)
    tally.add({"loss": (4.0, 2**25 + 0.0)}, tokens=2**25 + 1)
    assert tally.tokens == 2**25 + 4
    assert tally.step == 2
    weights = np.zeros((2, 4, 3), np.float32)
    weights[0, 1:3, :2] = 0.125
    weights[1, 0, 0] = 2.0
    batch = {"decoder_input_tokens": np.ones((2, 4, 3), np.int32), "decoder_loss_weights": weights}
    np.testing.assert_array_equal(count_targets(batch), [4, 1])
    np.testing.assert_array_equal(_count_everywhere(batch), [4, 1])
    images = {"images": np.zeros((2, 5, 8, 8, 1))}
    np.testing.assert_array_equal(count_targets(images), [5, 5])
    np.testing.assert_array_equal(_count_everywhere(images), [5, 5])


def test_a_mean_of_nothing_is_none():
    """Every step of the interval was skipped, say."""
    tally = Tally()
    tally.add({"loss": (6.0, 3.0), "grad_norm": (0.0, 0.0)}, tokens=3)
    tally.add({"loss": (3.0, 6.0), "grad_norm": (0.0, 0.0)}, tokens=6)
    means = tally.take_means()
    assert means["loss"] == 1.0 and math.isnan(means["grad_norm"])
    assert tally.take_means() == {}


def test_checksums_of_event_files():
    """RFC 3720, appendix B.4: CRC-32C of 32 zeros, of 32 ones and of 0 to 31; masked as TensorFlow's record format."""
    for data, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)):
        masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
        assert int.from_bytes(_masked_crc(data), "little") == masked


def test_an_event_file_that_goes_on_from_a_step(tmp_path):
    """Read with tensorboardX's definition of the protocol buffer."""
    board = EventFile(tmp_path, 301)
    board.scalars({"train/loss": 2.5, "eval/docs/loss": -1.0}, 2**40)
    board.close()
    events, content = [], next(tmp_path.iterdir()).read_bytes()
    while content:
        length = int.from_bytes(content[:8], "little")
        assert content[8:12] == _masked_crc(content[:8])
        assert content[12 + length : 16 + length] == _masked_crc(content[12 : 12 + length])
        events.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    version, start, values = events
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (301, 1)
    assert values.step == 2**40 and abs(values.wall_time - time.time()) < 60
    assert {value.tag: value.simple_value for value in values.summary.value} == {
        "train/loss": 2.5,
        "eval/docs/loss": -1.0,
    }
