# SPDX-License-Identifier: Apache-2.0
"""The flags of scripts/fit.py: the best law, simulated coverage, two arms, and what a mistake says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.scaling.laws.catalogue import LAWS

PROGRAM = Path(__file__).parents[2] / "scripts/fit.py"


def run(*flags):
    return subprocess.run([sys.executable, PROGRAM, *map(str, flags)], capture_output=True, text=True, check=False)


def table(path, **columns):
    np.savetxt(path, np.column_stack([*columns.values()]), delimiter=",", header=",".join(columns), comments="")
    return path


@pytest.fixture
def arms(grid, write_points):
    """Two sweeps of the same cells: the second needs 1.3 times less compute, its params and tokens counting more."""

    def rows(columns):
        return [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]

    first = grid(sizes=4, noise=0.002, seed=1)
    worth = np.sqrt(1.3)
    second = grid(sizes=4, noise=0.002, seed=2, A=20.0 / worth**0.34, B=800.0 / worth**0.40)
    return write_points(rows(first), "a.csv"), write_points(rows(second), "b.csv")


def test_the_best_law_is_fitted_and_its_coverage_simulated(arms, tmp_path):
    done = run(f"--points={arms[0]}", f"--out={tmp_path}/fit", "--law=best", "--coverage=20", "--bootstrap=100")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "fit/fit.json").read_text())
    assert content["law"] == content["leaderboard"]["best"] == content["leaderboard"]["rows"][0]["law"]
    assert set(content["coverage"]["methods"]) == {"wild", "pairs", "delta", "profile"}
    assert content["coverage"]["simulations"] == 20
    assert "nominal 95 % intervals held the truth" in " ".join(done.stdout.split())
    assert {"threshold", "window"} == set(content["sensitivity"])
    assert len(content["influence"]["rows"]) == 16


def test_two_arms_are_compared(arms, tmp_path):
    done = run(f"--points={arms[0]}", f"--against={arms[1]}", f"--out={tmp_path}/fit", "--bootstrap=200")
    assert done.returncode == 0, done.stderr
    comparison = json.loads((tmp_path / "fit/fit.json").read_text())["comparison"]
    low, high = comparison["rows"][4]["interval"]
    assert low < 1.3 < high
    assert comparison["paired"]["pairs"] == 16
    assert "multiplier" in done.stdout


def test_two_families_of_one_file_are_arms(arms, tmp_path):
    both = tmp_path / "both.csv"
    lines = [path.read_text().splitlines() for path in arms]
    rows = [f"{line},{family}" for family, each in zip(("plain", "gated"), lines, strict=True) for line in each[1:]]
    both.write_text("\n".join([f"{lines[0][0]},family", *rows, f"{lines[0][1]},third"]) + "\n")
    done = run(f"--points={both}", "--by_family", f"--out={tmp_path}/fit")
    assert done.returncode == 2
    assert done.stderr.endswith("two can be compared: --by_family=plain,gated\n")
    done = run(f"--points={both}", "--by_family=plain,gated", f"--out={tmp_path}/fit", "--bootstrap=100")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "fit/fit.json").read_text())
    assert content["comparison"]["names"] == ["plain", "gated"]
    assert content["num_points"] == 16
    told = " ".join(done.stdout.split())
    assert "FLOPs of gated" in told
    assert "This law is that of the runs of plain alone." in told and "The law of gated" in told
    assert "The law of gated" in (tmp_path / "fit/report.html").read_text()


def test_arms_that_cannot_be_compared_have_a_report_that_says_why(arms, grid, write_points, tmp_path):
    """No loss of the second arm is one that the first reaches."""
    columns = grid(sizes=4, noise=0.002, seed=2, E=30.0)
    rows = [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]
    other = write_points(rows, "far.csv")
    done = run(f"--points={arms[0]}", f"--against={other}", f"--out={tmp_path}/fit", "--bootstrap=100")
    assert done.returncode == 0, done.stderr
    why = "no loss is common to both, so their compute cannot be compared without extrapolation"
    assert why in " ".join(done.stdout.split())
    assert why in (tmp_path / "fit/report.html").read_text()
    assert json.loads((tmp_path / "fit/fit.json").read_text())["comparison"]["rows"] == []


def test_chinchilla_and_a_known_source_stand_beside_the_best_law(grid, tmp_path):
    """The second sweep's source has an entropy of 2 nats, which its E has to find."""
    power = {"E": 1.7, "A": 258.0, "B": 15876.0, "alpha": 0.52, "beta": 0.7, "k": 0.45}
    columns = grid(sizes=5)
    sizes = {name: columns[name] for name in ("params", "tokens")}
    rng = np.random.default_rng(0)
    loss = LAWS["power_of_sum"].predict(power, sizes) * np.exp(0.0005 * rng.normal(size=len(columns["loss"])))
    text = table(tmp_path / "text.csv", **sizes, loss=loss)
    known = tmp_path / "known"
    known.mkdir()
    exact = grid(sizes=4, noise=0.0005, E=2.0)
    table(known / "points.csv", **{name: exact[name] for name in ("params", "tokens", "loss")})
    (known / "sweep.json").write_text(json.dumps({"exact_entropy": 2.0, "params_column": "params"}))
    flags = [f"--points={text}", f"--out={tmp_path}/fit", "--law=best", "--bootstrap=200"]
    done = run(*flags, f"--known={known}")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "fit/fit.json").read_text())
    assert content["beside"]["law"] == "chinchilla" != content["law"]
    assert content["beside"]["residual_rms"] > content["residual_rms"]
    low, high = content["known_source"]["intervals"]["E"]
    assert low < 2.0 < high
    told, page = " ".join(done.stdout.split()), (tmp_path / "fit/report.html").read_text()
    assert "The truth, 2.000, is inside the interval of its E." in told
    for title in ("Beside it: Hoffmann et al. 2022, approach 3", "The same where the answer is known"):
        assert title in told and title in page
    assert (tmp_path / "fit/known_source_loss_by_tokens.png").is_file()
    done = run(*flags, f"--known={text}")
    assert done.returncode == 2 and "the entropy of its source is not known" in done.stderr


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--law=chinchila"], "error: law: 'chinchila' is not known"),
        (["--interval_method=wlid"], "error: interval_method: 'wlid' is not known"),
        (["--huber_delta=narrow"], "error: huber_delta: 'narrow'; it must be a positive number"),
        (["--weights=stderr"], "error: weights: 'stderr' is not known"),
        (["--coverage=3"], "error: --coverage=3: expected at least 20 simulations"),
        (["--against=nowhere.csv"], "error: nowhere.csv: no such file"),
        (["--by_family"], "error: "),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arms, tmp_path, flags, line):
    done = run(f"--points={arms[0]}", f"--out={tmp_path}/fit", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "fit").exists()
