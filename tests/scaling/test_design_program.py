# SPDX-License-Identifier: Apache-2.0
"""scripts/design.py, run as a person would run it."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.scaling.design import design
from t5x_like.scaling.design.cells import At, Cells
from t5x_like.scaling.design.prior import Belief, prior_over, question
from t5x_like.scaling.design.summary import design_chart
from t5x_like.scaling.laws.catalogue import CHINCHILLA

PROGRAM = Path(__file__).parents[2] / "scripts/design.py"


def run(*flags):
    return subprocess.run([sys.executable, PROGRAM, *flags], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("design")
    done = run("--budget=3e13", "--narrow=prediction", "--at=1e15", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_it_says_how_well_before_a_single_run(made):
    _, said = made
    assert said.startswith("prediction at 1.00×10¹⁵ FLOPs: expected to within ± 0.0")
    assert "95 % interval 2." in said
    for k in (3, 4, 5):
        assert f"The {k} x {k} grid of the same cost" in said
    assert "times the largest run" in said
    assert "warning: prediction is asked" in said  # some 100 times beyond the largest run
    assert "noise 0.50 % of the loss" in said


def test_its_files_agree(made):
    out, _ = made
    content = json.loads((out / "design.json").read_text())
    assert content["format"] == 1
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["params", "tokens", "flops", "seed"]
    assert len(rows) == content["runs"] == sum(cell["runs"] for cell in content["cells"])
    flops = np.array([float(row["flops"]) for row in rows])
    np.testing.assert_allclose(flops, [6 * float(r["params"]) * float(r["tokens"]) for r in rows], rtol=1e-5)
    assert flops.sum() == pytest.approx(content["flops"], rel=1e-5)
    assert flops.sum() <= 3e13 * (1 + 1e-5)
    assert content["extrapolation"] == pytest.approx(1e15 / flops.max(), rel=1e-5)
    seeds = {}
    for row in rows:
        seeds.setdefault((row["params"], row["tokens"]), []).append(row["seed"])
    assert all(given == [str(i) for i in range(len(given))] for given in seeds.values())
    assert (out / "design.png").read_bytes().startswith(b"\x89PNG")
    assert content["expected"]["half_width"] < min(grid["half_width"] for grid in content["grids"])


def test_a_design_is_checked_as_it_was_chosen(made):
    out, _ = made
    chosen = json.loads((out / "design.json").read_text())["expected"]
    for given in (out / "design.json", out / "cells.csv"):
        done = run(
            f"--check={given}", "--narrow=prediction", "--at=1e15", f"--prior={_prior(out)}", f"--out={out}/again"
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((out / "again/design.json").read_text())["expected"]
        assert found["half_width"] == pytest.approx(chosen["half_width"], rel=1e-3)
        assert not (out / "again/cells.csv").exists()


def _prior(out):
    parameters = json.loads((out / "design.json").read_text())["prior"]["parameters"]
    return ",".join(f"{name}={value!r}" for name, value in parameters.items())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--budget=3e13"], "missing: --narrow"),
        (["--narrow=E"], "--budget"),
        (["--budget=1e9", "--narrow=E"], "or more"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(flags, said):
    done = run(*flags)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_picture_marks_cells_by_repeats_and_the_target():
    cells = Cells.of([1e4, 1e4, 1e4, 1e5, 1e6, 1e6, 3e5, 3e5], [2e5, 2e5, 4e6, 1e6, 2e5, 4e6, 5e5, 1e6])
    prior = prior_over(Belief(), cells)
    plan = design.judge(prior, question(CHINCHILLA, "prediction", At(6e14, 1e7, 1e7)), cells)
    layers = design_chart(plan).panels[0].layers
    by_name = {layer.name: layer for layer in layers if layer.name}
    assert by_name["2 runs"].x.tolist() == [1e4]
    assert by_name["prediction"].x.tolist() == [1e7]
    single = next(layer for layer in layers if getattr(layer, "hover", ()) and "1 run" in layer.hover[0])
    assert by_name["2 runs"].area == 2 * single.area
    for line in layers:
        if getattr(line, "end", ""):
            assert np.ptp(np.log(line.x * line.y)) == pytest.approx(0, abs=1e-9)  # of equal compute
