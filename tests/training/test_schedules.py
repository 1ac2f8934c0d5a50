# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules against their closed forms."""

import dataclasses
import math

import numpy as np
import pytest

from t5x_like.config import ConstantConfig, CosineConfig, LinearConfig, RsqrtConfig, RunConfig, WSDConfig
from t5x_like.config.schedule import SlantedTriangularConfig
from t5x_like.config_files import with_overrides
from t5x_like.errors import UserError
from t5x_like.strict import FieldError, convert
from t5x_like.training.schedules import learning_rates


def test_schedules_at_their_corners():
    total = 100
    steps = np.arange(total)
    for schedule, middle in (
        (CosineConfig(warmup_fraction=0.1, final_fraction=0.2), 0.2 + 0.8 * 0.5),
        (LinearConfig(warmup_fraction=0.1, final_fraction=0.2), 0.2 + 0.8 * 0.5),
        (ConstantConfig(warmup_fraction=0.1), 1.0),
    ):
        rates = learning_rates(schedule, 3.0, total, steps)
        assert rates.dtype == np.float32
        np.testing.assert_allclose(rates[:10], 3.0 * np.arange(1, 11) / 10, rtol=1e-6)  # equal parts up to the peak
        # half way between the peak, which step 9 has, and step 100, which would have the final rate: 54.5
        np.testing.assert_allclose((rates[54] + rates[55]) / 2, 3.0 * middle, rtol=1e-6)
        assert rates[99] > 3.0 * 0.2 or schedule.kind == "constant"
        assert (np.diff(rates[10:]) <= 0).all()


def test_closed_forms_without_warmup():
    steps = np.arange(9)
    linear = learning_rates(LinearConfig(warmup_fraction=0), 1.0, 9, steps)
    np.testing.assert_allclose(linear, 1 - (steps + 1) / 10, rtol=1e-6)
    cosine = learning_rates(CosineConfig(warmup_fraction=0), 1.0, 9, steps)
    np.testing.assert_allclose(cosine, [(1 + math.cos(math.pi * (step + 1) / 10)) / 2 for step in steps], rtol=1e-6)
    np.testing.assert_allclose(learning_rates(ConstantConfig(warmup_fraction=0), 2.0, 9, steps), 2.0)


SHAPES = {
    "linear": lambda done: 1 - done,
    "1-sqrt": lambda done: 1 - math.sqrt(done),
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_warmup_stable_decay(shape):
    """Hägele et al. 2024, equation 1: the decay begins after the stable part and would end one step after the last."""
    schedule = WSDConfig(warmup_fraction=0.1, decay_fraction=0.25, decay_shape=shape, final_fraction=0.1)
    rates = learning_rates(schedule, 2.0, 40, np.arange(40))
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(rates[4:30], np.float32(2.0))
    expected = [2.0 * (0.1 + 0.9 * SHAPES[shape](i / 11)) for i in range(1, 11)]
    np.testing.assert_allclose(rates[30:], expected, rtol=1e-6)


def test_warmup_stable_decay_without_a_stable_part_is_linear_or_cosine():
    steps = np.arange(50)
    for shape, other in (("linear", LinearConfig), ("cosine", CosineConfig)):
        decay = WSDConfig(warmup_fraction=0.2, decay_fraction=0.8, decay_shape=shape, final_fraction=0.3)
        expected = learning_rates(other(warmup_fraction=0.2, final_fraction=0.3), 1.0, 50, steps)
        np.testing.assert_array_equal(learning_rates(decay, 1.0, 50, steps), expected)
    # a warm-up in steps may reach into the decay, which then begins later
    late = WSDConfig(warmup_steps=45, decay_fraction=0.8, decay_shape="linear")
    np.testing.assert_array_equal(
        learning_rates(late, 1.0, 50, steps), learning_rates(LinearConfig(warmup_steps=45), 1.0, 50, steps)
    )


def test_reciprocal_square_root():
    """Vaswani et al. 2017, section 5.3: D^-0.5 min(s^-0.5, s W^-1.5), whose peak is (D W)^-0.5."""
    width, warmup = 16, 20
    s = np.arange(1, 201)
    expected = width**-0.5 * np.minimum(s**-0.5, s * warmup**-1.5)
    rates = learning_rates(RsqrtConfig(warmup_steps=warmup), (width * warmup) ** -0.5, 200, s - 1)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert rates.argmax() == warmup - 1
    # Raffel et al. 2020, section 3.1.2: 1 / sqrt(max(s, k))
    rates = learning_rates(RsqrtConfig(warmup_steps=0, timescale_steps=100), 0.1, 200, s - 1)
    np.testing.assert_allclose(rates, 1 / np.sqrt(np.maximum(s, 100)), rtol=1e-6)
    # Shazeer and Stern 2018, section 8: min(0.01, 1 / sqrt(t))
    t = np.array([1, 9_999, 10_000, 10_001, 250_000])
    rates = learning_rates(RsqrtConfig(warmup_steps=0, timescale_steps=10_000), 0.01, 250_000, t - 1)
    np.testing.assert_allclose(rates, np.minimum(0.01, 1 / np.sqrt(t)), rtol=1e-6)


def test_reciprocal_square_root_cools_down_along_a_line():
    s = np.arange(1, 101)
    rates = learning_rates(RsqrtConfig(warmup_steps=4, cooldown_fraction=0.2), 1.0, 100, s - 1)
    line = np.where(s <= 80, 1.0, (101 - s) / 21)
    np.testing.assert_allclose(rates, np.minimum(s / 4, np.sqrt(4 / s)) * line, rtol=1e-6)


@pytest.mark.parametrize(("total", "cut_frac", "ratio"), [(100, 0.1, 32.0), (40, 0.25, 8.0)])
def test_slanted_triangular(total, cut_frac, ratio):
    """Howard and Ruder 2018, equation 3, with its defaults and with others; t counts steps from 1."""
    schedule = SlantedTriangularConfig(warmup_fraction=cut_frac, ratio=ratio)
    rates = learning_rates(schedule, 0.01, total, np.arange(total))
    cut = math.floor(total * cut_frac)
    for t in range(1, total + 1):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert rates[t - 1] == pytest.approx(0.01 * (1 + p * (ratio - 1)) / ratio, rel=1e-5)
    assert rates.argmax() == cut - 1 and rates[-1] == pytest.approx(0.01 / ratio)
    np.testing.assert_array_equal(learning_rates(schedule, 0.01, total, np.arange(7, 9)), rates[7:9])
    for changed in ({"warmup_fraction": 1.0}, {"warmup_steps": 0}, {"warmup_steps": total}, {}):
        for steps in (1, total):
            rates = learning_rates(dataclasses.replace(schedule, **changed), 1.0, steps, np.arange(steps))
            assert (rates >= np.float32(1 / ratio)).all() and (rates <= 1).all()


KINDS = [CosineConfig(), LinearConfig(), ConstantConfig(), WSDConfig(), RsqrtConfig(cooldown_fraction=0.5)]


@pytest.mark.parametrize("schedule", KINDS, ids=lambda schedule: schedule.kind)
def test_properties_of_every_schedule(schedule):
    steps = np.arange(100)
    rates = learning_rates(schedule, 1.0, 100, steps)
    # any part of a run has the rates of the whole
    np.testing.assert_array_equal(learning_rates(schedule, 1.0, 100, steps[37:40]), rates[37:40])
    # a warm-up in steps takes the place of one as a part of the run, and does not grow with the run
    for total in (100, 1000):
        counted = learning_rates(dataclasses.replace(schedule, warmup_steps=10), 1.0, total, np.arange(total))
        np.testing.assert_allclose(counted[:10], np.arange(1, 11) / 10, rtol=1e-6)
        assert counted[10:].max() <= 1.0
        if total == 100:
            np.testing.assert_array_equal(counted, rates)
    # a run of one step, one of warm-up only, one shorter than its warm-up: every step moves
    only = {"decay_fraction": 0.0} if schedule.kind == "wsd" else {}
    for total in (1, 2, 7):
        for changed in ({}, {"warmup_fraction": 1.0, **only}, {"warmup_steps": 30}, {"warmup_steps": 0}):
            rates = learning_rates(dataclasses.replace(schedule, **changed), 1.0, total, np.arange(total))
            assert (rates > 0).all() and (rates <= 1).all()


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (WSDConfig, {"warmup_fraction": 0.5, "decay_fraction": 0.6}, "0.6 and warmup_fraction=0.5 are more than"),
        (WSDConfig, {"decay_fraction": 1.2}, r"1.2 is outside \[0, 1\]"),
        (RsqrtConfig, {"cooldown_fraction": -0.1}, r"-0.1 is outside \[0, 1\]"),
        (RsqrtConfig, {"warmup_steps": 10, "timescale_steps": 5}, "5 is below 10, the warm-up's end"),
        (LinearConfig, {"warmup_steps": -1}, "-1 is below 0"),
        (CosineConfig, {"final_fraction": 2.0}, "2.0 is outside"),
        (SlantedTriangularConfig, {"ratio": 0.5}, "0.5 is below 1"),
    ],
)
def test_impossible_schedules_are_refused(kind, fields, expected):
    with pytest.raises(FieldError, match=expected):
        kind(**fields)


def test_schedules_on_the_command_line():
    def schedule(*overrides):
        return convert(RunConfig, with_overrides({"data": {"kind": "markov"}}, overrides)).schedule

    assert schedule("schedule.kind=wsd", "schedule.decay_shape=1-sqrt") == WSDConfig()
    assert schedule("schedule.kind=rsqrt", "schedule.warmup_steps=1e3").warmup_steps == 1000
    with pytest.raises(UserError, match=r"^schedule\.decay_shape='1-sqt': expected .*; did you mean '1-sqrt'\?$"):
        schedule("schedule.kind=wsd", "schedule.decay_shape=1-sqt")
