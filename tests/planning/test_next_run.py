# SPDX-License-Identifier: Apache-2.0
"""From a fit.json to the next run and back: optima by the closed form, configs that train, verdicts on known losses."""

import dataclasses
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.accounting.parameters import count_parameters
from t5x_like.config_files import load_file, load_run
from t5x_like.errors import UserError
from t5x_like.files import write_json
from t5x_like.planning.next_run import budget_of, config_file, next_run, on_slice
from t5x_like.planning.roofline import Assumptions
from t5x_like.planning.topology import slice_of
from t5x_like.scaling.analysis.verdict import verdict
from t5x_like.scaling.fitting.fit import fit_scaling_law
from t5x_like.scaling.fitting.saved import read_fit
from t5x_like.strict import convert, to_dict
from t5x_like.sweeps.design import SweepConfig, cells

ROOT = Path(__file__).parents[2]
TRUTH = {"E": 2.0, "A": 12.0, "B": 300.0, "alpha": 0.3, "beta": 0.45}
SWEEP = {
    "base": {
        "data": {"kind": "markov", "sequence_length": 8, "num_symbols": 32},
        "model": {"kind": "decoder_only", "num_layers": 1, "num_heads": 2},
        "schedule": {"kind": "wsd", "warmup_steps": 10},
        "training": {"batch_size": 4, "eval_tokens": 256, "tensorboard": False},
    },
    "sizes": [{"model.d_model": width} for width in (16, 24, 36, 52)],
    "tokens": [100_000, 200_000, 400_000, 800_000],
    "learning_rates": [0.02],
    "learning_rate_width": 16,
    "trunks": True,
}


def law(params, tokens):
    return TRUTH["E"] + TRUTH["A"] / params ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished sweep whose losses follow a known law to .05 %, and its fit."""
    place = tmp_path_factory.mktemp("sweep")
    sweep = convert(SweepConfig, SWEEP)
    rng = np.random.default_rng(0)
    rows = ["params,tokens,loss,run,trunk,status,learning_rate,seed"]
    for cell in cells(sweep):
        params, tokens = cell.params["params_nonembedding"], cell.config.training.tokens
        loss = law(params, tokens) * np.exp(0.0005 * rng.normal())
        rows.append(f"{params},{tokens},{loss},{cell.run},{cell.run},finished,{cell.config.optimizer.learning_rate},0")
    (place / "points.csv").write_text("\n".join(rows) + "\n")
    write_json(place / "sweep.json", {"params_column": "params_nonembedding", "design": to_dict(sweep)})
    (place / "fit").mkdir()
    write_json(place / "fit" / "fit.json", fit_scaling_law(place, bootstrap=200).to_json())
    return place


@pytest.fixture(scope="module")
def fit(folder):
    return read_fit(folder / "fit")


def test_optimum_and_inverse(fit):
    p = fit.parameters
    budget = 10 * fit.largest
    params, tokens = fit.optimum(budget)
    scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    assert params == pytest.approx(scale * (budget / 6) ** (p["beta"] / (p["alpha"] + p["beta"])), rel=1e-9)
    assert 6 * params * tokens == pytest.approx(budget)
    said = fit.predict(params, tokens)
    assert said.low < law(params, tokens) < said.high
    assert fit.flops_for(said.loss) == pytest.approx(budget, rel=1e-3)


def test_an_interval_has_the_law_s_doubt_and_the_run_s_own_noise(fit):
    row = fit.rows[-1]
    said = fit.predict(row["params"], row["tokens"])
    doubt = [abs(np.log(end / row["loss"])) for end in row["intervals"]["loss"]]
    assert said.loss == pytest.approx(row["loss"], rel=1e-6)
    for end, one in zip((said.low, said.high), doubt, strict=True):
        assert abs(np.log(end / said.loss)) == pytest.approx(np.hypot(one, 1.96 * fit.noise), rel=1e-6)


def test_the_next_cell_of_a_sweep(fit, tmp_path):
    made = next_run(fit, 8 * fit.largest)
    config = made.config
    width = config.model.d_model
    around = [
        count_parameters(dataclasses.replace(config.model, d_model=w, head_dim=w // 2, mlp_dim=4 * w)).nonembedding
        for w in (width - 4, width, width + 4)
    ]
    assert around[1] == made.params and around[0] < made.wanted[0] < around[2]
    assert config.optimizer.learning_rate == pytest.approx(0.02 * 16 / width, rel=1e-3)
    assert made.flops == pytest.approx(8 * fit.largest, rel=1e-3)  # tokens make up for the size's rounding
    assert (config.training.batch_size, config.data.kind, config.schedule.kind) == (4, "markov", "wsd")
    (tmp_path / "next.py").write_text(config_file(config, "A run."))
    assert load_run(str(tmp_path / "next.py")) == config


def test_heads_and_layers_are_carried_on_where_the_sizes_vary_them(fit, tmp_path):
    sizes = [{"model.d_model": 8 * n, "model.num_heads": n, "model.num_layers": n} for n in (1, 2, 4)]
    write_json(tmp_path / "sweep.json", {"design": to_dict(convert(SweepConfig, SWEEP | {"sizes": sizes}))})
    made = next_run(dataclasses.replace(fit, source=str(tmp_path)), 25 * fit.largest)
    model = made.config.model
    assert model.num_layers == pytest.approx(model.d_model / 8, rel=0.3) and model.num_layers > 4
    assert model.d_model % model.num_heads == 0 and model.head_dim % 2 == 0


def test_a_config_in_its_proportions(fit):
    """Batch and rate are the step law's; heads keep their width, depth grows with it."""
    base = load_file(str(ROOT / "configs/models/llama3_8b.py"))
    grown = dataclasses.replace(fit, largest=1e18, rows=[{**row, "flops": row["flops"] * 1e5} for row in fit.rows])
    made = next_run(grown, 1e19, base)
    model, training = made.config.model, made.config.training
    assert model.gated_mlp and model.head_dim == 128 and model.num_heads * 128 == model.d_model
    assert model.num_layers == pytest.approx(32 * model.d_model / 4096, abs=0.5)
    assert made.params == pytest.approx(made.wanted[0], rel=0.35)  # heads of 128 make large steps
    rate = 1.79 * made.wanted[0] ** -0.713 * made.wanted[1] ** 0.307
    assert made.config.optimizer.learning_rate == pytest.approx(rate, rel=1e-3)
    share = training.batch_size * made.config.data.sequence_length / (0.58 * made.wanted[1] ** 0.571)
    assert 0.5**0.5 < share < 2**0.5 and training.batch_size.bit_count() == 1
    assert made.config.schedule.warmup_steps <= training.steps / 10 + 1


def test_another_family_keeps_the_fields_that_it_has(fit):
    made = next_run(fit, fit.largest, family="llama")
    assert made.config.model.kind == "llama" and made.config.model.num_layers == 1
    with pytest.raises(UserError, match=r"--family: 'lama' is not known; .*did you mean 'llama'"):
        next_run(fit, fit.largest, family="lama")


def test_a_slice_gets_a_mesh_that_holds_the_run(fit):
    base = load_file(str(ROOT / "configs/models/llama3_8b.py"))
    grown = dataclasses.replace(fit, largest=1e20, rows=[{**row, "flops": row["flops"] * 1e7} for row in fit.rows])
    slice_ = slice_of("v5e:4x4")
    assumed = Assumptions(efficiency=0.4)
    budget = budget_of(grown, slice_, 3.0, assumed, base=base)
    made = next_run(grown, budget, base)
    assert made.exact_flops == pytest.approx(16 * 197e12 * 0.4 * 3 * 86400, rel=0.02)
    config, plan = on_slice(made, slice_, assumed)
    assert np.prod(list(config.mesh.sizes.values())) == 16 and plan["memory"]["fits"]
    assert plan["cost"]["days"] == pytest.approx(3, rel=0.35)  # what is recomputed is not in the budget


def test_the_law_is_not_asked_beyond_what_it_supports(fit):
    with pytest.raises(
        UserError, match=r"is 31 times the largest compute of the points, and the law supports 30 times"
    ):
        next_run(fit, 31 * fit.largest)
    with pytest.raises(UserError, match=r"--loss=1.9: .* \(no size or data brings it below [12]\.\d+\)"):
        fit.flops_for(1.9)


def finished(place, params, tokens, loss, status="finished"):
    place.mkdir()
    write_json(place / "accounting.json", {"params_nonembedding": params})
    write_json(place / "summary.json", {"status": status, "tokens": tokens, "loss": loss})
    return place


def test_a_run_is_held_against_its_prediction(fit, tmp_path):
    params, tokens = fit.optimum(8 * fit.largest)
    right = verdict(fit, finished(tmp_path / "right", params, tokens, law(params, tokens)), bootstrap=100)
    assert right.inside and right.times_largest == pytest.approx(8)
    assert abs(right.error) < 0.01
    wrong = verdict(fit, finished(tmp_path / "wrong", params, tokens, 1.1 * law(params, tokens)), bootstrap=100)
    assert not wrong.inside and wrong.error == pytest.approx(1 / 1.1 - 1, abs=0.01)
    new = [len(each.law.points) for each in (right, wrong)]
    assert new == [17, 17]
    known = right.law.parameters
    assert abs(known["E"] - TRUTH["E"]) <= abs(fit.parameters["E"] - TRUTH["E"]) + 0.01
    with pytest.raises(UserError, match="its status is 'diverged'"):
        verdict(fit, finished(tmp_path / "broken", params, tokens, 1.0, "diverged"))


@pytest.fixture
def run(monkeypatch, capsys):
    def call(program, *words):
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(ROOT / "scripts" / program), run_name="__main__")
        return caught.value.code, *capsys.readouterr()

    return call


def test_programs(run, folder, fit, tmp_path):
    out = tmp_path / "next.py"
    code, told, _ = run(
        "next_run.py", f"--fit={folder}/fit", f"--flops={8 * fit.largest}", f"--out={out}", "--topology=v5e:1x1"
    )
    assert code == 0 and "The next run:" in told and "On v5e:1x1 (one device, remat none)" in told
    said = json.loads(out.with_suffix(".json").read_text())
    assert said["low"] < said["loss"] < said["high"] and said["plan"]["memory"]["fits"]
    assert load_run(str(out)).training.tokens == said["tokens"]
    done = finished(tmp_path / "run", said["params"], said["tokens"], said["loss"])
    code, told, _ = run(
        "compare.py", f"--run={done}", f"--fit={folder}/fit", f"--out={tmp_path}/fit", "--bootstrap=100"
    )
    assert code == 0 and "inside the interval" in " ".join(told.split())
    assert json.loads((tmp_path / "fit/compare.json").read_text())["inside"]
    assert (tmp_path / "fit/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["next_run.py", "--fit=FIT", "--out=OUT"],
            "error: --flops, --loss or --chips: 0 of them given; accepted: one",
        ),
        (
            ["next_run.py", "--fit=FIT", "--out=OUT", "--chips=v5e:4x4"],
            "error: --days and --chips: one without the other",
        ),
        (["next_run.py", "--fit=FIT", "--out=OUT", "--flops=many"], "error: --flops=many: expected a number"),
        (["next_run.py", "--fit=nowhere", "--out=OUT", "--flops=1e12"], "error: --fit=nowhere: no such file"),
        (["next_run.py", "--fit=FIT", "--out=OUT", "--flops=1e20"], "error: --flops=1e+20: is "),
        (["compare.py", "--fit=FIT", "--run=nowhere"], "error: --run=nowhere: has no summary.json"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(words, line, run, folder, tmp_path):
    out = tmp_path / "next.py"
    code, _, err = run(*(word.replace("FIT", str(folder / "fit")).replace("OUT", str(out)) for word in words))
    assert code == 2 and err.startswith(line) and err.count("\n") == 1
    assert not out.exists()
