# SPDX-License-Identifier: Apache-2.0
"""Reading points: every mistake is one clear line, every row left out is told."""

import json

import numpy as np
import pytest

from t5x_like import fit_scaling_law
from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import read_points
from t5x_like.scaling.fitting.runs import read_curves, read_sample

GOOD = "params,tokens,loss\n1000,20000,4.5\n2000,20000,4.25\n"


def rows(**columns):
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("params,tokens,loss\n", "no rows"),
        ("params,tokens,los\n1,2,3\n", "no column 'loss'; its columns are params, tokens, los; did you mean 'los'?"),
        (GOOD + "3000,many,4.1\n", "points.csv line 4: column 'tokens' is 'many'; it must be a number"),
        ("params,tokens,loss\n\n3000,,4.1\n", "1 row was left out because a number is missing: "),
        (GOOD + "-3000,1,4.1\n", "points.csv line 4: params is -3000; it must be a positive number"),
        (GOOD + "3000,inf,4.1\n", "tokens is inf"),
        (GOOD + "3000,1\n", "points.csv line 4: 2 cells where the header has 3"),
        ("params,loss,tokens,loss\n1,2,3,4\n", "'loss' is named twice"),
        ("params,tokens,loss\n1,2,nan\n", "none of its rows is usable"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, text, expected):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_points(path)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_folder_without_points(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        read_points(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"holds no points\.csv"):
        read_points(tmp_path)


@pytest.mark.parametrize("bad", [3, "abc", [1, 2], [[1, 2]], {"params": [1], "tokens": [1, 2], "loss": [1]}])
def test_mistakes_in_memory_are_one_line(bad):
    with pytest.raises(UserError) as error:
        read_points(bad)
    assert "\n" not in str(error.value)


def test_every_way_in_gives_the_same_points(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("\ufeff" + GOOD.replace(",", " , "))
    table = np.array([[1000, 20000, 4.5], [2000, 20000, 4.25]])
    columns = {"params": [1000, 2000], "tokens": [20000, 20000], "loss": [4.5, 4.25]}
    for source in (path, str(path), table, table.tolist(), columns, rows(**columns)):
        points = read_points(source)
        np.testing.assert_array_equal(np.stack([points.params, points.tokens, points.loss], 1), table)
        assert points.warnings == ()
    np.testing.assert_array_equal(points.compute, [1.2e8, 2.4e8])


def test_unusable_rows_are_left_out_and_told(write_points):
    path = write_points(
        rows(
            params=[1, 2, 3, 4, 5, 6],
            tokens=[10] * 6,
            loss=[3.0, 2.9, "nan", "-1", 9.0, 2.5],
            status=["finished", "", "finished", "finished", "diverged", "interrupted"],
        )
    )
    points = read_points(path)
    assert points.params.tolist() == [1, 2]
    assert points.warnings == (
        f"1 row was left out because a number is missing: {path} line 4 (no loss).",
        "1 row was left out because the run was diverged.",
        "1 row was left out because the run was interrupted.",
        "1 row was left out because the loss is not a positive finite number.",
    )


def test_exact_copies_count_once_but_other_seeds_stay(write_points):
    path = write_points(rows(params=[1, 1, 1], tokens=[10] * 3, loss=[3.0, 3.0, 3.0], seed=[0, 0, 1]))
    points = read_points(path)
    assert points.columns["seed"].tolist() == [0, 1]
    assert points.warnings == ("1 row was left out as an exact copy of another row.",)


def test_best_learning_rate_of_each_cell_is_kept_and_edges_are_counted():
    points = read_points(
        {
            "params": [1, 1, 1, 2, 2, 2, 3, 3, 4],
            "tokens": [10] * 9,
            "loss": [3.0, 2.8, 2.9, 2.5, 2.6, 2.7, 2.2, 9.0, 2.0],
            "learning_rate": [0.1, 0.2, 0.4, 0.1, 0.2, 0.4, 0.1, 0.2, 0.1],
            "status": ["", "", "", "", "", "", "", "diverged", ""],
        }
    )
    assert points.loss.tolist() == [2.8, 2.5, 2.2, 2.0]
    assert points.warnings[-1].startswith(
        "The best learning rate is the lowest or the highest one tried in 2 of 3 cells"
    )


def test_a_diverged_learning_rate_counts_as_tried():
    points = read_points(
        {
            "params": [1, 1, 1],
            "tokens": [10, 10, 10],
            "loss": [3.0, 2.8, np.nan],
            "learning_rate": [0.1, 0.2, 0.4],
            "status": ["finished", "finished", "diverged"],
        }
    )
    assert points.loss.tolist() == [2.8]
    assert not any("learning rate" in warning for warning in points.warnings)


def test_sweep_folder_brings_what_its_files_know(sweep):
    for source in (sweep, sweep / "points.csv"):
        points = read_points(source)
        assert len(points) == 16
        assert (points.params_column, points.exact_entropy) == ("params_total", 3.0)
        assert points.fingerprints == ("0123abcd",)
    curves = read_curves(points.folder, points.columns["run"], points.params)
    assert len(curves) == 16
    assert curves[3].tokens[-1] == points.tokens[3]
    assert len(curves[3].loss) == 8  # the half-written last line of a killed run is passed over
    assert read_sample(points.folder) == "a <b>bold</b> sample & more"


def test_other_params_column(write_points):
    path = write_points(rows(params=[1, 2], params_total=[11, 12], tokens=[10, 10], loss=[3, 2]))
    points = read_points(path, params_column="params_total")
    assert points.params.tolist() == [11, 12]
    assert points.params_column == "params_total"
    with pytest.raises(UserError, match=r"no column 'params_totl'.*did you mean 'params_total'"):
        read_points(path, params_column="params_totl")


@pytest.mark.parametrize(
    "content", ["{", "[1]", json.dumps({"exact_entropy": "low"}), json.dumps({"exact_entropy": -1})]
)
def test_broken_sweep_json_is_one_line(sweep, content):
    (sweep / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json: "):
        read_points(sweep)


def test_schedules_that_did_not_end_are_told(sweep):
    for i in range(16):
        path = sweep / f"run{i}/metrics.jsonl"
        rates = np.linspace(0.01, 0.006 if i in (3, 5) else 1e-5, 8)  # two runs were cut short of their decay
        lines = [
            json.dumps({"step": s, "tokens": 1e5 * s, "split": "train", "loss": 4.0, "learning_rate": float(rate)})
            for s, rate in enumerate(rates, 1)
        ]
        path.write_text("\n".join(lines))
    told = [warning for warning in read_points(sweep).warnings if "learning rate had not come down" in warning]
    assert len(told) == 1
    assert told[0].startswith("In 2 of 16 runs")
    assert "run3" in told[0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(1e4, 1e6, 3.0)] * 2, "1 row was left out as an exact copy of another row"),
        ([(1e5, 1e6, float("inf"))], "1 row was left out because the loss is not a positive finite number"),
        ([(1e5, 1e6, -2.0)], "1 row was left out because the loss is not a positive finite number"),
        ([(1e5, 1e6, float("nan"))], "1 row was left out because a number is missing: points row 16 (no loss)"),
    ],
)
def test_bad_rows_are_left_out_by_name_and_the_rest_is_fitted(grid, rows, says):
    columns = grid(noise=0.003)
    bad = {name: [*columns[name], *values] for name, values in zip(columns, zip(*rows, strict=True), strict=True)}
    fit = fit_scaling_law(bad, bootstrap=0)
    assert any(says in warning for warning in fit.warnings)
    assert np.isfinite(list(fit.parameters.values())).all()


def test_sizes_whose_product_overflows_an_integer_are_fitted(grid, truth):
    """6 x 1e10 x 1e19 FLOPs is above 9.2e18 and above any 64-bit integer."""
    columns = grid()
    columns["params"], columns["tokens"] = columns["params"] * 1e6, columns["tokens"] * 1e13
    as_integers = {
        **columns,
        "params": [int(n) for n in columns["params"]],
        "tokens": [int(d) for d in columns["tokens"]],
    }
    fit = fit_scaling_law(as_integers, bootstrap=0)
    assert fit.parameters["alpha"] == pytest.approx(truth["alpha"], rel=1e-4)
    assert fit.points.compute.max() > 1e30
    assert fit.compute_optimal["rows"][-1]["flops"] > 1e31


def test_another_column_stands_for_the_loss(tmp_path):
    (tmp_path / "a.csv").write_text(
        "params,tokens,loss,loss_stderr,error_zero_shot\n"
        + "".join(f"{n}e3,{n}e4,2.{n},.1,.{9 - n}\n" for n in range(1, 7))
    )
    points = read_points(tmp_path / "a.csv", columns={"loss": "error_zero_shot"})
    assert points.loss.tolist() == [0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    assert "loss_stderr" not in points.columns  # of what is not fitted
    own = read_points(tmp_path / "a.csv")
    assert own.loss[0] == 2.1 and own.columns["loss_stderr"][0] == 0.1


def test_runs_that_others_beat_with_less_compute_are_left_out():
    params, tokens = np.full(6, 1e6), np.array([1, 2, 3, 4, 4, 5]) * 1e6
    points = read_points({"params": params, "tokens": tokens, "loss": [3.0, 2.5, 2.6, 2.4, 2.3, 2.3]})
    best = points.on_frontier()
    assert best.tokens.tolist() == [1e6, 2e6, 4e6] and best.loss.tolist() == [3.0, 2.5, 2.3]
    assert best.warnings[-1] == "3 of 6 points are fitted: no other is as good with less compute."
