# SPDX-License-Identifier: Apache-2.0
"""Energy: the model by hand, what is measured by the real codecarbon, and what a resumed run adds up."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from t5x_like.accounting.hardware import CORE_POWER, modelled_power
from t5x_like.training import energy
from t5x_like.training.energy import EnergyMeter, energy_summary
from t5x_like.training.loop import train


def devices(kind, count, platform="gpu"):
    return np.array([SimpleNamespace(device_kind=kind, platform=platform, process_index=0) for _ in range(count)])


def test_the_model_by_hand(monkeypatch):
    watts, words = modelled_power(devices("NVIDIA H100 80GB HBM3", 8))
    assert watts == pytest.approx(8 * 700 * 1.3 * 1.1)
    assert words == "model: 8 x H100 SXM at 700 W, 30% more for hosts and network, PUE 1.1"
    assert modelled_power(devices("TPU7x", 8))[0] == pytest.approx(4 * 1085 * 1.3 * 1.1)  # two devices on a chip
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5, 7})
    assert modelled_power(devices("cpu", 8, "cpu"))[0] == pytest.approx(3 * CORE_POWER * 1.3 * 1.1)
    watts, words = modelled_power(devices("NVIDIA GT 1030", 1))
    assert watts is None and "no 'NVIDIA GT 1030'" in words
    assert energy_summary(watts, words) == {"kwh": None, "co2_kg": None, "method": words}


def test_a_kilowatt_hour(monkeypatch):
    """An H100 with all around it for an hour, read twice."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = EnergyMeter(devices("NVIDIA H100 80GB HBM3", 1), started=400.0)
    now[0] += 1200
    first = meter.read()
    now[0] += 1800
    assert first + meter.read() == pytest.approx(0.7 * 1.3 * 1.1)
    summary = energy_summary(1.001, meter.method)
    assert summary["co2_kg"] == pytest.approx(1.001 * 0.47) and summary["method"].endswith("PUE 1.1, 0.47 kg CO2e/kWh")


def test_a_run_says_where_time_and_energy_went(make_run, tmp_path):
    config = make_run("training.steps=12", "training.evaluate_every=4", "training.checkpoint_every=4")
    began = time.monotonic()
    summary = train(config, tmp_path / "run")
    took = time.monotonic() - began
    spent = summary["goodput"]["seconds"]
    assert set(spent) == {"start", "input", "step", "evaluation", "checkpoint", "other"}
    assert all(seconds >= 0 for seconds in spent.values()) and spent["evaluation"] > 0 and spent["checkpoint"] > 0
    assert 0.5 * took < sum(spent.values()) <= took
    assert summary["goodput"]["share"] == spent["step"] / sum(spent.values())
    watts, words = modelled_power(devices("cpu", 1, "cpu"))
    assert summary["energy"]["method"].startswith(words)
    assert summary["energy"]["kwh"] == pytest.approx(watts * sum(spent.values()) / 3.6e6, rel=0.2)


def test_sessions_add_up(make_run, tmp_path):
    """A run that goes on has the time and the energy of its earlier sessions, as its checkpoint knew them."""
    config = make_run("training.steps=12", "training.checkpoint_every=4", "training.keep_checkpoints=9")
    first = train(config, tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    again = train(config, tmp_path / "run")
    saved = json.loads((tmp_path / "run/checkpoints/12/tally/metadata").read_text())
    assert again["energy"]["kwh"] > saved["energy_kwh"] > 0
    assert again["goodput"]["seconds"]["step"] == saved["spent"]["step"] <= first["goodput"]["seconds"]["step"]


@pytest.mark.slow
def test_the_real_codecarbon(monkeypatch):
    """Where there is no meter it falls back on a processor's data sheet: above nothing, below a kilowatt."""
    pytest.importorskip("codecarbon")
    monkeypatch.setattr(energy, "_meters", lambda: ["RAPL"])
    meter = EnergyMeter(devices("cpu", 1, "cpu"), time.monotonic())
    end = time.monotonic() + 3
    while time.monotonic() < end:
        sum(range(1000))
    used = meter.read()
    assert meter.method.startswith("codecarbon 3.") and "measured by RAPL" in meter.method
    assert 0 < used < 1.0 * 3 / 3600
    assert meter.read() < used
