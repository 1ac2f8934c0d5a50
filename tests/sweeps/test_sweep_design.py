# SPDX-License-Identifier: Apache-2.0
"""A design's cells, and the points that their folders make."""

import csv
import json
import re
from pathlib import Path

import pytest

from t5x_like.accounting.flops import flops_per_token
from t5x_like.accounting.parameters import count_parameters
from t5x_like.config import config_hash
from t5x_like.errors import UserError
from t5x_like.scaling.fitting.points import read_points
from t5x_like.strict import convert
from t5x_like.sweeps.design import SweepConfig, _short, base_identity, cells, load_sweep
from t5x_like.sweeps.points import cell_status, write_points

BASE = {
    "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 16},
    "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
    "training": {"batch_size": 8, "eval_tokens": 256},
}


def sweep(**fields):
    content = {
        "base": BASE,
        "sizes": [{"model.d_model": 8}, {"model.d_model": 16, "model.num_heads": 4}],
        "tokens": [1000, 2e3],
        "learning_rates": [0.02],
    }
    return convert(SweepConfig, content | fields)


def test_every_combination_is_a_cell_with_a_readable_name_of_its_own():
    design = cells(sweep(learning_rates=[0.02, 0.01], seeds=[0, 7]))
    assert len({cell.run for cell in design}) == len(design) == 2 * 2 * 2 * 2
    for cell in design:
        nonembedding = count_parameters(cell.config.model).nonembedding
        rate, seed = cell.config.optimizer.learning_rate, cell.config.seed
        tokens = "1.02k" if cell.config.training.tokens == 1024 else "1.98k"
        assert cell.run == f"n{_short(nonembedding)}_d{tokens}_lr{rate:g}_s{seed}_{config_hash(cell.config)}"
        assert re.fullmatch(r"[\w.\-]+", cell.run)
        assert cell.flops == cell.config.training.tokens * flops_per_token(cell.config.model, 8)
    assert {(cell.config.model.d_model, cell.config.model.num_heads) for cell in design} == {(8, 2), (16, 4)}
    assert {cell.config.training.steps for cell in design} == {16, 31}  # 1000 and 2000 tokens in steps of 64


def test_names_count_what_the_sweep_calls_params():
    (cell, *_) = cells(sweep(params_column="params_total"))
    assert cell.run.startswith(f"n{_short(count_parameters(cell.config.model).total)}_")
    assert [_short(n) for n in (7, 999, 1234, 262144, 1.5e6, 2e9, 3e12)] == [
        "7", "999", "1.23k", "262k", "1.5M", "2B", "3T",
    ]  # fmt: skip


def test_cells_of_one_size_share_compiled_code():
    design = cells(sweep(seeds=[0, 1]))
    by_width = {cell.config.model.d_model: cell.size for cell in design}
    assert len(set(by_width.values())) == 2
    assert all(cell.size == by_width[cell.config.model.d_model] for cell in design)


@pytest.mark.parametrize(("power", "expected"), [(1.0, {8: 0.16, 16: 0.08}), (0.5, {8: 0.08, 16: 0.0565685})])
def test_learning_rate_by_width(power, expected):
    design = cells(sweep(learning_rates=[0.04], learning_rate_width=32, learning_rate_power=power))
    assert {cell.config.model.d_model: cell.config.optimizer.learning_rate for cell in design} == expected


def test_without_a_width_every_size_has_the_same_rate():
    assert {cell.config.optimizer.learning_rate for cell in cells(sweep())} == {0.02}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"sizes": []}, r"^sizes: is empty; give at least one$"),
        ({"tokens": [1000, 1000]}, r"^tokens: \[1000, 1000\] names one twice$"),
        ({"seeds": "0"}, r"^seeds='0': expected a list of an integer$"),
        ({"learning_rate": [1]}, r"^learning_rate: no such field; accepted: .*; did you mean 'learning_rates'\?$"),
        ({"params_column": "params"}, r"^params_column='params': expected 'params_total' \| "),
        ({"sizes": [{"model.d_modle": 8}]}, r"^base\.model\.d_modle: no such field; .*; did you mean 'd_model'\?$"),
        ({"sizes": [{"model.d_model": 7}]}, r"^base\.model\.num_heads: 2 heads do not divide d_model=7"),
        ({"learning_rates": [-1.0]}, r"^base\.optimizer\.learning_rate: -1\.0 is not above 0$"),
        ({"tokens": [1000, 1001]}, r"the grid makes the run .* twice"),  # both are 16 steps
        ({"tokens": [0]}, r"^base\.training\.tokens: 0 is below 1$"),
    ],
)
def test_impossible_designs_are_refused(fields, expected):
    with pytest.raises(UserError, match=expected) as caught:
        cells(sweep(**fields))
    assert "\n" not in str(caught.value)


# ---- arms

ARMS = {
    "plain": {"model": {"num_layers": 2}},
    "llama": {"model": {"kind": "llama"}, "optimizer": {"kind": "lion", "b2": 0.9}, "sizes": [{"model.d_model": 8}]},
}


def test_each_arm_is_the_base_with_its_fields_over_the_grid():
    """Its own sizes replace those of all; its cells have its name, and otherwise that of a run without arms."""
    optimizer = {"kind": "adamw", "b1": 0.8}
    design = cells(sweep(base={**BASE, "optimizer": optimizer}, arms=ARMS))
    assert [cell.arm for cell in design] == ["plain"] * 4 + ["llama"] * 2
    of = {arm: [cell.config for cell in design if cell.arm == arm] for arm in ARMS}
    assert {(run.model.kind, run.model.num_layers, run.model.d_model) for run in of["plain"]} == {
        ("decoder_only", 2, 8), ("decoder_only", 2, 16),
    }  # fmt: skip
    assert {(run.model.kind, run.model.d_model) for run in of["llama"]} == {("llama", 8)}
    assert all(run.optimizer.b1 == 0.8 for run in of["plain"])
    assert all((run.optimizer.kind, run.optimizer.b1, run.optimizer.b2) == ("lion", 0.9, 0.9) for run in of["llama"])
    alone = sweep(base={**BASE, "optimizer": optimizer, "model": {**BASE["model"], "num_layers": 2}})
    assert [cell.run for cell in design[:4]] == [f"plain_{cell.run}" for cell in cells(alone)]


# What version 1 of these files made: folders of sweeps that are there go on.
NAMES = {
    "hierarchy": ("n1.71k_d262k_lr0.02_s0_fcc288ca", "n56.4k_d2.1M_lr0.00333_s0_f89ffc25"),
    "markov": ("n1.82k_d262k_lr0.024_s0_76e15a2d", "n57.5k_d4.19M_lr0.003_s0_ae04ed02"),
    "python": ("n3.25k_d350k_lr0.017_s0_4e89b09b", "n69.7k_d2.8M_lr0.00358_s1_852478b5"),
}


@pytest.mark.parametrize("name", NAMES)
def test_cells_of_sweeps_without_arms_keep_their_names(name):
    design = cells(load_sweep(str(Path(__file__).parents[2] / "configs" / "sweeps" / f"{name}.py")))
    assert (design[0].run, design[-1].run) == NAMES[name]
    assert {cell.arm for cell in design} == {""}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"arms": {"": {}}}, r"^arms: '' names no arm; accepted: letters, digits, '_', '-' and '\.'$"),
        ({"arms": {"a/b": {}}}, r"^arms: 'a/b' names no arm; accepted: "),
        ({"arms": {"a": 3}}, r"^arms\.a=3: expected "),
        ({"arms": {"a": {"modle": {"d_model": 8}}}}, r"^arms\.a\.modle: no such field; .*; did you mean 'model'\?$"),
        ({"arms": {"a": {"model": {"d_modle": 8}}}}, r"^arms\.a\.model\.d_modle: no such .* did you mean 'd_model'\?$"),
        ({"arms": {"a": {"model": {"kind": "lama"}}}}, r"^arms\.a\.model\.kind='lama': expected .*'llama'\?$"),
        ({"arms": {"a": {"sizes": [3]}}}, r"^arms\.a\.sizes\[0\]=3: expected "),
        ({"arms": {"a": {}}, "sizes": []}, r"^arms\.a\.sizes: is empty; give at least one$"),
        ({"arms": {"a": {}}, "base": {**BASE, "sed": 1}}, r"^base\.sed: no such field; .*; did you mean 'seed'\?$"),
    ],
)
def test_impossible_arms_are_refused(fields, expected):
    with pytest.raises(UserError, match=expected) as caught:
        cells(sweep(**fields))
    assert "\n" not in str(caught.value)


def test_a_sixth_of_a_targets_flops_is_a_size_in_any_family():
    for cell in cells(sweep(params_column="params_compute")):
        per_target = flops_per_token(cell.config.model, 8)
        assert cell.params["params_compute"] == pytest.approx(per_target / 6, abs=0.5)
        assert cell.run.startswith(f"n{_short(cell.params['params_compute'])}_d")


def test_a_larger_grid_has_the_same_base_and_another_source_has_not():
    base = base_identity(sweep())
    assert base_identity(sweep(tokens=[500], sizes=[{"model.d_model": 4}], seeds=[3])) == base
    other = {**BASE, "data": {**BASE["data"], "process_seed": 1}}
    assert base_identity(sweep(base=other)) != base
    assert base_identity(sweep(arms=ARMS)) == base_identity(sweep(arms={"plain": ARMS["plain"]}))


COLUMNS = (
    "params,tokens,loss,loss_stderr,flops,params_total,params_nonembedding,params_active,unique_tokens,family,run,seed,"
    "learning_rate,status"
)


def test_points_from_run_folders(tmp_path):
    """Finished cells have their numbers, a diverged one its status, others no line; in the order of the design."""
    design = cells(sweep())
    endings = ["finished", "interrupted", "diverged", None]
    for number, (cell, status) in enumerate(zip(design, endings, strict=True)):
        folder = tmp_path / cell.run
        folder.mkdir()
        loss = 2.5 + number if status == "finished" else None
        summary = {"status": status, "tokens": 1024, "unique_tokens": 900, "loss": loss, "loss_stderr": loss and 0.125}
        if status is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "accounting.json").write_text(json.dumps({"flops_per_token": 6e15}))  # times 1024: past int64
    assert [cell_status(tmp_path, cell) for cell in design] == ["finished", None, "diverged", None]
    write_points(tmp_path, sweep(), design)
    text = (tmp_path / "points.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    first, diverged = csv.DictReader(text.splitlines())
    counts = count_parameters(design[0].config.model)
    assert first == {
        "params": str(counts.nonembedding), "tokens": "1024", "loss": "2.5", "loss_stderr": "0.125",
        "flops": "6.144e+18", "params_total": str(counts.total), "params_nonembedding": str(counts.nonembedding),
        "params_active": str(counts.total), "unique_tokens": "900", "family": "decoder_only", "run": design[0].run,
        "seed": "0", "learning_rate": "0.02", "status": "finished",
    }  # fmt: skip
    assert (diverged["run"], diverged["status"], diverged["loss"]) == (design[2].run, "diverged", "nan")


def test_every_task_has_its_columns(tmp_path):
    """And they are no reason to keep two learning rates of a cell apart."""
    task = {"kind": "markov", "process_seed": 5}
    of = sweep(base={**BASE, "evaluation": {"other": task}})
    design = cells(of)
    for number, cell in enumerate(design):
        (tmp_path / cell.run).mkdir()
        summary = {
            "status": "finished",
            "tokens": cell.config.training.tokens,
            "unique_tokens": 900,
            "loss_stderr": 0.1,
        }
        summary |= {"loss": 2.0 + number / 10, "evaluations": {"other": {"loss": 3.5 + number / 10, "accuracy": 0.25}}}
        (tmp_path / cell.run / "summary.json").write_text(json.dumps(summary))
        (tmp_path / cell.run / "accounting.json").write_text(json.dumps({"flops_per_token": 6e3}))
    write_points(tmp_path, of, design)
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))
    assert list(rows[0]) == [*COLUMNS.split(","), "loss_other", "accuracy_other"]
    assert [(row["loss_other"], row["accuracy_other"]) for row in rows] == [
        (str(3.5 + n / 10), "0.25") for n in range(4)
    ]
    points = read_points(tmp_path / "points.csv", columns={"loss": "loss_other"})
    assert points.loss.tolist() == [3.5 + n / 10 for n in range(4)]


def test_the_family_of_a_point_is_its_arm(tmp_path):
    design = cells(sweep(arms=ARMS))
    for cell in design:
        (tmp_path / cell.run).mkdir()
        summary = {"status": "finished", "tokens": 1024, "unique_tokens": 900, "loss": 2.0, "loss_stderr": 0.1}
        (tmp_path / cell.run / "summary.json").write_text(json.dumps(summary))
        (tmp_path / cell.run / "accounting.json").write_text(json.dumps({"flops_per_token": 6e3}))
    write_points(tmp_path, sweep(arms=ARMS), design)
    rows = list(csv.DictReader((tmp_path / "points.csv").read_text().splitlines()))
    assert [row["family"] for row in rows] == ["plain"] * 4 + ["llama"] * 2
