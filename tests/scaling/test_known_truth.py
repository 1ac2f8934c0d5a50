# SPDX-License-Identifier: Apache-2.0
"""Laws on surfaces of known truth: errors against fits made one by one, optima by calculus, the page's form."""

import dataclasses
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from truth.judged_sweeps import judge_sweep
from truth.page import findings
from truth.truth import CASES, bend, cases, choose, data_sets, study, true_optimum

from t5x_like import fit_scaling_law
from t5x_like.errors import UserError
from t5x_like.scaling.analysis.leaderboard import entrants, leaderboard
from t5x_like.scaling.fitting.points import read_points

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "known_truth.md"
CHINCHILLA = CASES[0]
QUANTA = next(case for case in CASES if case.family == "quanta")
LAWS = ("chinchilla", "kaplan_e", "multiplicative")


@pytest.fixture(scope="module")
def own():
    """Three laws on Chinchilla's surface."""
    return study(CHINCHILLA, seeds=3, laws=LAWS)


@pytest.fixture(scope="module")
def quanta():
    return study(QUANTA, seeds=2, laws=LAWS)


def test_the_true_law_errs_by_the_noise_alone(own):
    truth, outcome = CHINCHILLA.surface.parameters, own.outcomes[0]
    np.testing.assert_allclose(outcome.vectors[0], list(truth.values()), rtol=1e-4)
    for name in ("E", "alpha", "beta"):
        assert abs(getattr(outcome, name)[0]) < 1e-5, name
    np.testing.assert_allclose(outcome.loss[0], 0, atol=1e-6)
    np.testing.assert_allclose(outcome.params[0], 1, rtol=1e-3)
    assert outcome.score[0] < 1e-6
    assert 0 < np.abs(outcome.E[1:]).max() < 0.1
    assert 0 < np.abs(outcome.loss[1:]).max() < 0.02
    assert np.abs(outcome.alpha[1:]).max() < 0.05
    assert -1e-9 < outcome.excess.min() <= outcome.excess.max() < 1e-3


def test_numbers_are_those_of_fits_made_one_by_one(quanta):
    """One noisy data set through the functions that users call, and errors written out by hand."""
    points, losses = data_sets(QUANTA, 2)
    points = dataclasses.replace(points, loss=losses[2])
    truth = quanta.truth
    for outcome in quanta.outcomes:
        fit = fit_scaling_law(points, outcome.law, bootstrap=0)
        predicted = fit.predict(params=truth.params[:1], tokens=truth.flops[:1] / 6 / truth.params[:1])
        assert outcome.E[2] == pytest.approx(fit.parameters["E"] - 1.7, abs=1e-4), outcome.law.name
        assert outcome.loss[2, 0] == pytest.approx(float(predicted[0] / truth.loss[0] - 1), abs=1e-5)
        row = leaderboard(points, [outcome.law])["rows"][0]
        assert outcome.leave_one_out[2] == pytest.approx(row["leave_one_out_rms"], rel=0.01)
        assert outcome.rolling[2] == pytest.approx(row["rolling_origin_rms"], rel=0.01)
        assert outcome.score[2] == pytest.approx(row["score"], rel=0.01)
    fit = fit_scaling_law(points, "chinchilla", bootstrap=0)
    p, outcome = fit.parameters, quanta.outcomes[0]
    a = p["beta"] / (p["alpha"] + p["beta"])
    size = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"])) * (truth.flops / 6) ** a
    np.testing.assert_allclose(outcome.params[2], size / truth.params, rtol=1e-3)
    assert outcome.a[2] == pytest.approx(a - truth.a, abs=1e-4)
    assert outcome.alpha[2] == pytest.approx(p["alpha"] - 0.3, abs=1e-3)
    assert outcome.beta[2] == pytest.approx(p["beta"] - 0.3 / 1.3, abs=1e-3)
    cost = QUANTA.surface.loss(np.round(size), truth.flops / 6 / np.round(size)) / truth.loss - 1
    np.testing.assert_allclose(outcome.excess[2], cost, rtol=1e-2)


def test_a_law_without_an_optimum_or_without_limits_says_so(own):
    product = own.outcomes[2]
    assert np.isnan(product.params).all()
    assert np.isnan(product.a).all()
    assert np.isnan(product.alpha).all()
    assert np.isfinite(product.loss).all()


def test_the_true_optimum_is_that_of_the_closed_form():
    """Hoffmann et al. 2022, equation 4, for the Chinchilla surface; every whole size nearby for the quanta model."""
    p, truth = CHINCHILLA.surface.parameters, true_optimum(CHINCHILLA)
    a = p["beta"] / (p["alpha"] + p["beta"])
    scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    np.testing.assert_allclose(truth.params, scale * (truth.flops / 6) ** a, rtol=1e-4)
    assert truth.a == pytest.approx(a, abs=1e-5)
    np.testing.assert_allclose(truth.flops, 6 * 1e6 * 3e7 * np.array([10, 30, 100]))
    case = next(case for case in CASES if case.name == "quanta, a = .5")
    truth = true_optimum(case)
    nearby = np.arange(0.9 * truth.params[0] // 1, 1.1 * truth.params[0], 4)
    assert truth.loss[0] <= case.surface.loss(nearby, truth.flops[0] / 6 / nearby).min() * (1 + 1e-9)


def test_the_designs_lie_where_limits_are_power_laws():
    assert bend(CHINCHILLA) < 1e-3  # what its other term is at 1e18
    assert all(0 < bend(case) < 0.1 for case in CASES if case.law is None)


def fabricated(example, scores, errors):
    """A study with these held-out errors and mis-extrapolations [laws, data sets]."""
    outcomes = [
        dataclasses.replace(outcome, score=np.r_[0.0, score], loss=np.outer(np.r_[0.0, error], np.ones(3)))
        for outcome, score, error in zip(example.outcomes, scores, errors, strict=True)
    ]
    return dataclasses.replace(example, outcomes=tuple(outcomes))


def test_choice_counts_by_hand(own):
    scores = [[1, 2, 3], [2, 1, 2], [3, 3, 1]]  # picks laws 0, 1, 2
    errors = [[0.01, -0.02, 0.03], [0.02, 0.04, 0.02], [-0.03, 0.01, -0.01]]  # best are laws 0, 2, 2
    found = choose([fabricated(own, scores, errors), fabricated(own, scores, errors)])
    assert (found.data_sets, found.hits) == (6, 4)
    assert found.names == dict.fromkeys(LAWS, 2)
    np.testing.assert_allclose(found.picked, [0.01, 0.04, 0.01] * 2)
    np.testing.assert_allclose(found.best, [0.01, 0.01, 0.01] * 2)
    np.testing.assert_allclose(found.typical, [0.02, 0.02, 0.02] * 2)
    np.testing.assert_allclose(found.always["kaplan_e"], [0.02, 0.04, 0.02] * 2)


def test_sentences_follow_the_figures(own):
    errors = np.array([[0.001] * 3, [0.02] * 3, [0.05] * 3])
    good = fabricated(own, [[1] * 3, [2] * 3, [3] * 3], errors)
    bad = fabricated(own, [[3] * 3, [2] * 3, [1] * 3], errors)
    told = " ".join(findings([good], choose([good]), []))
    assert "error works here" in told
    assert "kaplan_e (1) and multiplicative (1)" in told
    assert "no law's own" not in told
    assert "No compute-optimal size follows from multiplicative" in told
    told = " ".join(findings([bad], choose([bad]), []))
    assert "error does not work here" in told
    assert "in 0 of 3 data sets" in told
    exact = fabricated(own, [[1] * 3, [2] * 3, [3] * 3], errors / 100)
    assert "No law misses the loss" in " ".join(findings([exact], choose([exact]), []))


def test_a_sweep_is_judged_by_its_exact_entropy(sweep):
    laws = ("chinchilla", "chinchilla_tied", "kaplan")
    judged = judge_sweep(sweep, laws=laws, bootstrap=100)
    assert (judged.name, judged.entropy, judged.points) == ("sweep", 3.0, 16)
    points = read_points(sweep)
    order = [row["law"] for row in leaderboard(points, laws)["rows"]]
    assert [v.law for v in judged.verdicts] == order
    verdict = next(v for v in judged.verdicts if v.law == "chinchilla")
    fit = fit_scaling_law(points, bootstrap=100)
    assert verdict.error == pytest.approx(fit.parameters["E"] - 3.0)
    assert verdict.interval == fit.intervals["E"]
    assert verdict.holds == (fit.intervals["E"][0] <= 3.0 <= fit.intervals["E"][1])
    pure = next(v for v in judged.verdicts if v.law == "kaplan")
    assert (pure.error, pure.interval, pure.holds) == (None, None, None)
    away = dataclasses.replace(verdict, error=verdict.E - 5.0)
    assert away.holds is False


def test_a_sweep_of_unknown_entropy_is_refused(sweep):
    (sweep / "sweep.json").write_text(json.dumps({"format": 1, "params_column": "params_total"}))
    with pytest.raises(UserError, match=r"no exact_entropy; expected a sweep on a process of known entropy"):
        judge_sweep(sweep)


def test_cases_by_family():
    assert [case.family for case in cases(["quanta"])] == ["quanta", "quanta"]
    assert cases() == CASES
    with pytest.raises(UserError, match=r"'quant' is not known; .*quanta"):
        cases(["quant"])
    with pytest.raises(UserError, match="seeds: 0"):
        study(CHINCHILLA, seeds=0)


def skeleton(text):
    """Headings but for those of sweeps, and the first column of every table."""
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    tables = re.findall(r"^\| ([^|]*) \|.*\n\| ---", text, flags=re.M)
    return headings, [title for title in tables if title != "rank"]


def test_the_page_is_what_the_program_writes(sweep, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "small.md"
    words = ["known_truth.py", f"--out={out}", "--seeds=1", "--bootstrap=100", "--surfaces", "chinchilla"]
    monkeypatch.setattr(sys, "argv", [*words, "--sweeps", str(sweep)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "known_truth.py"), run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().err
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text, kept = out.read_text(), PAGE.read_text()
    assert skeleton(text) == skeleton(kept)
    assert f"--seeds=1 --bootstrap=100 --surfaces chinchilla --sweeps {sweep}\n```" in text
    assert "(small.png)" in text
    assert re.search(r"^\| \d \| chinchilla \| [+-]0\.\d{4} \| ", text, flags=re.M)  # the sweep's table
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan\w*", "", text.lower())

    block = re.search(r"```bash\n(.*?)```", kept, flags=re.S).group(1)
    assert block.splitlines()[-1].startswith("python scripts/known_truth.py --out=docs/known_truth.md")
    assert PAGE.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert all(f"| {case.name} |" in kept for case in CASES)
    laws = [law.name for law in entrants(data_sets(CHINCHILLA, 1)[0])]
    assert all(f"| {law} |" in kept for law in laws)
