# SPDX-License-Identifier: Apache-2.0
"""The multi-power law against its double sum, written out, and on curves whose law is known."""

import json

import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.scaling.analysis.schedule_law import MultiPower, Schedule, fit_multi_power, read_schedule

TRUTH = MultiPower(L0=2.8, A=0.6, B=40.0, C=2.0, alpha=0.5, beta=0.6, gamma=0.5)
PEAK, WARM = 0.01, 20


def rates(kind, steps=390):
    s = np.arange(1, steps + 1)
    ramp = np.minimum(1, s / WARM)
    done = np.clip((s - WARM) / (steps - WARM), 0, 1)
    falls = {"constant": 1 + 0 * done, "cosine": 0.5 + 0.5 * np.cos(np.pi * done), "linear": 1 - done}
    falls["wsd"] = 1 - np.sqrt(np.clip((done - 0.8) / 0.2, 0, 1))
    return PEAK * ramp * falls[kind]


def curve(kind, steps=390, noise=0.0):
    at = np.arange(40, steps + 1, 10)
    bare = Schedule(kind, rates(kind, steps), at, np.ones(len(at)))
    loss = TRUTH.predict(bare) * np.exp(noise * np.random.default_rng(0).normal(size=len(at)))
    return Schedule(kind, bare.rates, at, loss)


@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd"])
def test_the_law_is_its_double_sum(kind):
    p, eta = TRUTH, rates(kind)
    for step, ours in zip(curve(kind).steps, curve(kind).losses, strict=True):
        learned = sum(eta[:step])
        gained = 0.0
        for k in range(WARM, step):  # the steps after the peak, counted from 0
            since = sum(eta[k:step])
            gained += (eta[k - 1] - eta[k]) * (1 - (p.C * max(eta[k], 1e-300) ** -p.gamma * since + 1) ** -p.beta)
        assert ours == pytest.approx(p.L0 + p.A * learned**-p.alpha - p.B * gained, rel=1e-9)


def test_two_schedules_tell_a_third():
    """Constant and cosine; the curve of warm-up, stable, decay, which falls steeply at its end, was never seen."""
    law = fit_multi_power([curve("constant", noise=0.0005), curve("cosine", noise=0.0005)])
    assert law.residual_rms < 0.001
    for kind in ("wsd", "linear"):
        exact = curve(kind).losses
        assert np.abs(law.predict(curve(kind)) / exact - 1).max() < 0.004
    drop = curve("wsd").losses
    assert drop[-9] - drop[-1] > 0.03  # the fall is there to be predicted


def test_a_run_folder_is_read(tmp_path):
    lines = [
        {"split": "train", "step": s, "loss": 3.0, "tokens": s, "learning_rate": PEAK * min(1, s / 20)}
        for s in range(10, 101, 10)
    ]
    lines += [{"split": "eval", "step": s, "loss": 3.0 + 1 / s, "tokens": s} for s in (10, 30, 50, 70, 100)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_schedule(tmp_path)
    np.testing.assert_allclose(found.rates, PEAK * np.minimum(1, np.arange(1, 101) / 20))
    assert found.steps.tolist() == [30, 50, 70, 100]  # the warm-up's has no place in the law
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:12]))
    with pytest.raises(UserError, match=r"1 evaluations after the warm-up, and a curve needs 4"):
        read_schedule(tmp_path)
    with pytest.raises(UserError, match=r"has no metrics.jsonl with learning rates"):
        read_schedule(tmp_path / "nowhere")
