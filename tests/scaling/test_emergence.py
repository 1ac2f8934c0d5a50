# SPDX-License-Identifier: Apache-2.0
"""Scores by size: a smooth accuracy by token, its tenth power, and the formula of the emergence score."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.errors import UserError
from t5x_like.scaling.analysis.emergence import emergence, sharpness

SCRIPT = Path(__file__).parents[2] / "scripts" / "emergence.py"
SIZES = np.array([1e3, 3e3, 1e4, 3e4, 1e5, 3e5])
BY_TOKEN = 1 / (1 + (SIZES / 8e3) ** -0.8)


def write_sweep(folder, seeds=1):
    lines = ["params,run,status"]
    for seed in range(seeds):
        for size, right in zip(SIZES[::-1], BY_TOKEN[::-1], strict=True):  # in no order of sizes
            run = f"n{size:g}_s{seed}"
            lines.append(f"{size:g},{run},finished")
            shift = 0.02 * (seed - (seeds - 1) / 2)
            values = {"token_accuracy": right + shift, "exact_match": right**10, "edit_distance": 10 * (1 - right)}
            metrics = {name: {"value": v, "low": v - 0.01, "high": v + 0.02} for name, v in values.items()}
            task = {"metrics": metrics, "examples": 100, "target_tokens": 10.0}
            (folder / run).mkdir(parents=True)
            (folder / run / "evaluation.json").write_text(json.dumps({"format": 1, "tasks": {"digits": task}}))
    lines.append("7,n7,diverged")
    (folder / "points.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_emergence_score():
    """Breakthroughness of BIG-bench, worked out by hand: range 8, squared steps 1, 1, 36, 1, their median 1."""
    assert sharpness([0, 1, 2, 8, 7]) == {"emergence_score": pytest.approx(8.0), "largest_step": pytest.approx(6 / 8)}
    assert sharpness([9, 8, 7, 1, 0])["emergence_score"] == pytest.approx(-9.0)
    assert sharpness([0.0, 0.0, 0.0, 1.0]) == {"emergence_score": None, "largest_step": 1.0}
    assert sharpness([2.0, 2.0, 2.0]) == {"emergence_score": None, "largest_step": None}


def test_scores_by_size(tmp_path):
    found = emergence(write_sweep(tmp_path / "sweep", seeds=2), "digits")
    assert found["params"] == SIZES.tolist() and found["target_tokens"] == 10
    for name, expected in (("token_accuracy", BY_TOKEN), ("exact_match", BY_TOKEN**10)):
        np.testing.assert_allclose(found["metrics"][name]["value"], expected)  # seeds are averaged
        np.testing.assert_allclose(found["metrics"][name]["high"], expected + 0.02)
    steps = {name: of["largest_step"] for name, of in found["metrics"].items()}
    power = BY_TOKEN**10
    assert steps["exact_match"] == pytest.approx(np.diff(power).max() / np.ptp(power)) and steps["exact_match"] > 0.5
    assert steps["token_accuracy"] == pytest.approx(steps["edit_distance"]) and steps["edit_distance"] < 0.35
    scores = {name: of["emergence_score"] for name, of in found["metrics"].items()}
    assert scores["exact_match"] > 2 * scores["token_accuracy"] and scores["edit_distance"] < 0


def test_the_program(tmp_path, monkeypatch, capsys):
    sweep, out = write_sweep(tmp_path / "sweep"), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["emergence.py", f"--sweep={sweep}", "--task=digits", f"--out={out}"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert caught.value.code == 0 and "exact_match" in printed and "largest step" in printed
    content = json.loads((out / "emergence.json").read_text())
    assert content["format"] == 1 and content["params"] == SIZES.tolist()
    page = (out / "emergence.html").read_text()
    assert page.index("exact_match: ") < page.index("token_accuracy: ")  # the most abrupt first
    for chart in ("emergence", "emergence_exact_match", "emergence_token_accuracy", "emergence_edit_distance"):
        assert (out / f"{chart}.png").stat().st_size > 5000


def test_mistakes(tmp_path):
    sweep = write_sweep(tmp_path / "sweep")
    with pytest.raises(UserError, match="was not scored on 'digit', but on digits"):
        emergence(sweep, "digit")
    with pytest.raises(UserError, match="0 sizes have finished; expected three or more"):
        emergence(tmp_path, "digits")
    (sweep / "n1000_s0" / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"n1000_s0: was not scored on 'digits', but on nothing"):
        emergence(sweep, "digits")
