# SPDX-License-Identifier: Apache-2.0
"""Sections from made-up data, the page around them, provenance of runs, and the LaTeX table."""

import base64
import dataclasses
import gzip
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from t5x_like import fit_scaling_law
from t5x_like.reporting import draw_plotly, page
from t5x_like.reporting.charts import Line, Marks
from t5x_like.reporting.page import Section, Table
from t5x_like.reporting.palette import DARK
from t5x_like.scaling.laws.catalogue import LAWS
from t5x_like.scaling.report import analysis_charts, latex, provenance
from t5x_like.scaling.report.analysis_sections import BUILDERS
from t5x_like.scaling.report.report import charts_of, of_fit, write_report
from t5x_like.scaling.report.summary import findings, standing


@pytest.fixture(scope="module")
def fit():
    params, tokens = (a.ravel() for a in np.meshgrid(np.geomspace(5e3, 5e5, 4), np.geomspace(2.5e5, 4e6, 4)))
    loss = (3.0 + 20 / params**0.34 + 800 / tokens**0.4) * np.exp(0.004 * np.random.default_rng(0).normal(size=16))
    return fit_scaling_law({"params": params, "tokens": tokens, "loss": loss}, bootstrap=100)


def point(shift, moves="E", **others):
    row = {"run": "r<1>", "params": 1e6, "tokens": 2e7, "loss": 3.0, "residual": 0.01}
    return {**row, "largest": shift, "moves": moves, "shifts": {"E": shift, "alpha": -shift / 2}, **others}


def curve(center, coefficients, problem=None, params=None):
    spread = {"params": [0.5 * params, None]} if params else {}
    found = {"center": center, "coefficients": coefficients, "problem": problem, "params": params}
    return {**found, "loss": coefficients[0], "left_out_error": 0.01, "tokens": None, "intervals": spread}


def law_row(name, leave, rolling, parameters):
    row = {"law": name, "formula": f"E + {name}", "parameters": parameters, "values": {"E": 1.5}, "residual_rms": 0.01}
    return {**row, "leave_one_out_rms": leave, "rolling_origin_rms": rolling, "origins": [], "score": None}


def budget(flops, rows, found):
    return {"flops": flops, "rows": rows, "sizes": [1.0] * len(rows), "curves": {"parabola": found}}


def setting(name, **parameters):
    known = {"residual_rms": 0.01, "used": False, "parameters": parameters} if parameters else {"parameters": None}
    return {"setting": name, "points": 9, **known}


def at_loss(loss, multiplier, interval, extrapolated):
    known = {"loss": loss, "flops_a": 2e12, "flops_b": 1e12, "multiplier": multiplier}
    return {**known, "interval": interval, "extrapolated": extrapolated}


MADE_UP = {
    "leaderboard": {
        "rows": [law_row("best_law", 0.01, 0.02, 3), law_row("chinchilla", 0.02, 0.04, 5), law_row("x", 0.03, None, 4)],
        "best": "best_law",
        "refused": {"refused_law": "too few points"},
    },
    "isoflop": {
        "form": "parabola",
        "rule": "The parabola is used.",
        "budgets": [
            budget(1e12, [0, 1, 2, 3], curve(10.0, [3.5, 0.0, 0.1], None, np.exp(10.0))),
            budget(1e13, [4, 5, 6, 7], curve(11.0, [3.3, 0.1, 0.0], "no minimum")),
            budget(1e14, [8, 9, 10], None),
        ],
        "laws": {"parabola": {"params": {"exponent": 0.5, "coefficient": 0.02, "exponent_interval": [0.4, 0.6]}}},
        "against_surface": {"surface_a": 0.55, "rows": [{"flops": 1e12, "surface_params": 2e4}]},
        "left_out": [],
        "warnings": ["A budget has no minimum."],
    },
    "influence": {"quantities": ["E", "alpha"], "rows": [point(0.2), point(-0.9, "alpha", tokens=4e7), point(0.0)]},
    "sensitivity": {
        "threshold": [
            setting("delta 0.001", E=1.5, alpha=0.3, beta=0.4),
            setting("least squares", E=1.6, alpha=0.5, beta=0.6),
        ],
        "window": [setting("all points", E=1.5, alpha=0.3, beta=0.4), setting("without the smallest")],
    },
    "interval_methods": {
        "wild": {"E": [2.9, 3.1], "alpha": [0.3, None]},
        "delta": {"E": [2.8, 3.2], "alpha": [0.2, 0.4]},
    },
    "coverage": {
        "quantities": ["E", "alpha"],
        "simulations": 200,
        "methods": {
            "wild": {"coverage": [0.95, 0.93], "mean": 0.94, "lowest": 0.93, "highest": 0.95, "width": [0.1, None]},
            "delta": {"coverage": [0.72, 0.99], "mean": 0.85, "lowest": 0.72, "highest": 0.99, "width": [0.1, 0.2]},
        },
    },
    "comparison": {
        "names": ["dense", "experts"],
        "verdict": "experts is better throughout.",
        "rows": [
            at_loss(3.2, 2.0, [1.5, 2.5], False),
            at_loss(3.0, 3.0, [1.5, None], True),
            at_loss(2.0, None, None, True),
        ],
        "paired": {"pairs": 7, "multiplier": 1.8, "multiplier_interval": [1.6, 2.0]},
        "warnings": ["The arms differ."],
        "crossings": [],
        "overlap": [3.0, 3.2],
    },
}


def marks(chart):
    return [layer for layer in chart.panels[0].layers if isinstance(layer, Marks)]


def test_builders_cover_every_analysis_and_only_what_is_there(fit):
    assert set(MADE_UP) == set(BUILDERS)
    content = fit.to_json() | {"provenance": fit.to_json()["provenance"] | {"command": ""}}
    plain = [section.title for section in of_fit(fit, content)]
    assert plain == ["Parameters", "Compute-optimal sizes", "Fit and points", "Residuals", "Points", "Provenance"]
    extra = [Section("My own", ["said"], tables=(Table(("a",), [("b",)]),))]
    full = of_fit(fit.with_analyses(**MADE_UP), content, extra)
    added = [section.title for section in full if section.title not in plain]
    assert added == [
        "Other laws",
        "Iso-FLOP analysis",
        "Influence",
        "Sensitivity",
        "Intervals by method",
        "Simulated coverage",
        "Comparison of arms",
        "My own",
    ]
    names = [chart.name for chart in charts_of(full)]
    assert len(names) == len(set(names))  # they are file names
    for chart in charts_of(full):
        json.dumps(draw_plotly.figure(chart), allow_nan=False)


def test_leaderboard_ranks_and_names_this_law(fit):
    made = BUILDERS["leaderboard"](MADE_UP["leaderboard"], fit)
    assert "best_law predicts runs left out best" in made.sentences[0]
    assert "chinchilla, is number 2 of 3" in made.sentences[1] and "2.00 %" in made.sentences[1]
    assert made.notes == ["refused_law was not tried: too few points."]
    leave, rolling = marks(made.charts[0])
    np.testing.assert_allclose(leave.x, [1, 2, 3])
    np.testing.assert_allclose(leave.y, [0, -1, -2])
    np.testing.assert_allclose(rolling.x, [2, 4])  # the third has no origin
    assert made.charts[0].panels[0].y.marks == ((0.0, "best_law"), (-1.0, "chinchilla"), (-2.0, "x"))


def test_isoflop_draws_curves_minima_and_power_laws(fit):
    valleys, best = BUILDERS["isoflop"](MADE_UP["isoflop"], fit).charts
    lines = [layer for layer in valleys.panels[0].layers if isinstance(layer, Line)]
    assert [line.dash for line in lines] == ["solid", "dot"]
    np.testing.assert_allclose(lines[0].y, 3.5 + 0.1 * (np.log(lines[0].x) - 10) ** 2)
    runs = [m for m in marks(valleys) if m.shape == "circle"]
    np.testing.assert_array_equal(runs[1].y, fit.points.loss[4:8])
    (minimum,) = (m for m in marks(valleys) if m.shape == "diamond")
    assert (minimum.x[0], minimum.y[0]) == (pytest.approx(np.exp(10.0)), 3.5)
    (diamond,) = marks(best)
    np.testing.assert_allclose(diamond.error, [[0.5 * np.exp(10.0)], [0.0]])  # below; above is unbounded


def test_influence_sizes_points_by_their_shift(fit):
    chart = BUILDERS["influence"](MADE_UP["influence"], fit).charts[0]
    (dots,) = marks(chart)
    assert dots.y[0] == 4e7  # the most influential first, so that smaller ones lie on top
    assert dots.area[0] - 8 == pytest.approx((dots.area[1] - 8) * 0.9 / 0.2)  # area goes with the shift
    assert "without it, alpha moves by +0.45 standard errors" in dots.hover[0]
    assert "r<1>" in dots.hover[0]
    (dots,) = marks(analysis_charts.influence(MADE_UP["influence"], "E"))
    assert "without it, E moves by -0.90 standard errors" in dots.hover[0]


def test_sensitivity_leaves_out_windows_without_a_fit(fit):
    made = BUILDERS["sensitivity"](MADE_UP["sensitivity"], fit)
    threshold, window = made.charts
    assert [(m.name, m.x.tolist()) for m in marks(threshold)] == [("alpha", [0.3, 0.5]), ("beta", [0.4, 0.6])]
    assert [m.x.tolist() for m in marks(window)] == [[0.3], [0.4]]
    assert analysis_charts.sensitivity(MADE_UP["sensitivity"]["window"], ["gamma"], "n", "t", "c") is None


def test_comparison_marks_what_is_extrapolated(fit):
    made = BUILDERS["comparison"](MADE_UP["comparison"], fit)
    assert "7 pairs" in made.sentences[1] and "1.80 times" in made.sentences[1]
    inside, outside = marks(made.charts[0])
    assert (inside.x.tolist(), inside.y.tolist(), inside.hollow) == ([3.2], [2.0], False)
    assert (outside.x.tolist(), outside.y.tolist(), outside.hollow) == ([3.0], [3.0], True)
    none = MADE_UP["comparison"] | {"rows": MADE_UP["comparison"]["rows"][2:], "paired": None}
    assert BUILDERS["comparison"](none, fit).charts == ()


def test_coverage_and_intervals_show_each_method(fit):
    chart = BUILDERS["coverage"](MADE_UP["coverage"], fit).charts[0]
    assert [(m.name, m.x.tolist()) for m in marks(chart)] == [("wild", [95.0, 93.0]), ("delta", [72.0, 99.0])]
    made = BUILDERS["interval_methods"](MADE_UP["interval_methods"], fit)
    assert {row[0]: row[1:] for row in made.tables[0].rows}["E"] == ("2.90 to 3.10", "2.80 to 3.20")
    lines = [layer for layer in made.charts[0].panels[0].layers if isinstance(layer, Line)]
    np.testing.assert_allclose(lines[0].x * fit.parameters["E"], [2.9, 3.1])


def test_page_escapes_everything():
    nasty = '<script>alert("&")</script>'
    part = Section(nasty, [nasty], (), (Table((nasty,), [((nasty, nasty),)], title=nasty, folded=nasty),), [nasty])
    made = page.document(
        nasty,
        [dataclasses.replace(part, facts=((nasty, nasty),), text=nasty)],
        {},
        None,
        source=nasty,
        law="E",
        tiles=[(nasty, nasty)],
        findings=[nasty],
        warnings=[nasty],
    )
    assert "<script" not in made
    assert made.count("&lt;script&gt;alert(&#34;&amp;&#34;)&lt;/script&gt;") == 11 + 7


def test_report_holds_the_library_once_and_without_it_stays_still(fit, tmp_path, monkeypatch):
    html = write_report(fit, tmp_path / "live").read_text()
    packed = re.findall(r'<script type="text/plain" id="plotly">([^<]*)</script>', html)
    assert len(packed) == 1
    library = gzip.decompress(base64.b64decode(packed[0]))
    origin = Path(importlib.util.find_spec("plotly").origin).parent / "package_data/plotly.min.js"
    assert library == origin.read_bytes()
    drawings = re.findall(r'<script type="application/json">(.*?)</script>', html)
    images = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,', html)
    assert len(drawings) == len(images) == 4
    assert [json.loads(text)["layout"]["xaxis"]["title"]["text"] for text in drawings] == [
        "training compute, 6 × params × tokens FLOPs",
        "training tokens",
        "training compute, 6 × params × tokens FLOPs",
        "params",
    ]
    assert "prefers-color-scheme: dark" in html
    assert json.loads(re.search(r"const COLOURS = (.*);", html)[1])["dark"]["accent"] == DARK["accent"]
    monkeypatch.setattr(draw_plotly, "library", lambda: None)
    still = write_report(fit, tmp_path / "still").read_text()
    assert "DecompressionStream" not in still
    assert len(re.findall(r"<img ", still)) == 4
    assert len(still) < len(html) - len(packed[0])


def test_provenance_tells_what_runs_share_and_where_they_differ(sweep):
    for i, folder in enumerate(sorted(sweep.glob("run*"))):
        (folder / "config.json").write_text(json.dumps({"model": {"d_model": 8 * (i + 1)}, "seed": 0}))
    fit = fit_scaling_law(sweep, bootstrap=0)
    found = provenance.of_runs(fit)
    assert [each["run"] for each in found] == fit.points.columns["run"].tolist()
    first = sweep / found[0]["run"] / "config.json"
    assert found[0]["config_sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert found[0]["fingerprint"] == "0123abcd"
    shared, own = provenance.shared_and_own(found)
    assert (shared, own) == ({"seed": 0}, ["model.d_model"])
    content = fit.to_json() | {"provenance": fit.to_json()["provenance"] | {"command": "c"}}
    last = of_fit(fit, content)[-1]
    runs, fields = last.tables
    assert runs.head == ("run", "model.d_model", "data fingerprint", "config sha256")
    assert runs.rows[0] == ("run0", "8", "0123abcd", found[0]["config_sha256"][:12])
    assert fields.rows == [("seed", "0")]
    assert ("command", "c") in last.facts and ("energy", "not recorded") in last.facts
    taken = {"kwh": 0.25, "co2_kg": 0.1, "method": "model: m"}
    some = [each | {"energy": taken if i < 2 else None} for i, each in enumerate(found)]
    assert provenance.energy(some) == f"0.500 kWh, 0.200 kg CO2e by 2 of {len(found)} runs (model: m)"
    assert provenance.short("0123456789abcdef") == "0123456789ab"
    assert provenance.short("0123456789abcdef-dirty") == "0123456789ab-dirty"
    assert provenance.named({"jax": "0.10.2", "numpy": "2.4.6"}) == "jax 0.10.2, numpy 2.4.6"
    assert provenance.stamp(content["provenance"]).endswith(content["provenance"]["points_used_sha256"][:12])


def said(intervals, residual=0.004, largest=0.01):
    """Of a fit with such intervals and errors."""
    parameters = {"E": 3.0, "alpha": 0.34, "beta": 0.4}
    holdout = {"rms_relative_error": largest}
    return standing(SimpleNamespace(intervals=intervals, residual_rms=residual, holdout=holdout, parameters=parameters))


GOOD = {"E": (2.9, 3.1), "alpha": (0.3, 0.4), "beta": (0.35, 0.45)}


@pytest.mark.parametrize(
    ("changes", "residual", "largest", "doubts"),
    [
        ({}, 0.011, 0.01, "it misses its own points by 1.10 %, so smaller differences are not to be read off it"),
        ({}, 0.004, 0.03, "it misses the largest runs by 3.00 %, so nothing larger is to be planned by it"),
        ({"E": (0.0, 3.1)}, 0.004, 0.01, "E may be nothing, so the loss that no size or data removes is not known"),
        ({"E": (None, 3.1)}, 0.004, 0.01, "E may be nothing, so the loss that no size or data removes is not known"),
        (
            {"alpha": (0.1, 0.5), "beta": (0.2, 0.6)},
            0.004,
            0.01,
            "alpha is anywhere in 0.100 to 0.500 and beta is anywhere in 0.200 to 0.600, "
            "so how fast size or data pay is not known",
        ),
    ],
)
def test_what_may_not_be_concluded(changes, residual, largest, doubts):
    told = said(GOOD | changes, residual, largest)
    assert told == f"What may not be concluded: {doubts}. What else is said here is the best description found."


def test_a_law_that_stands_is_said_to_first(fit):
    assert said(GOOD) == "By its residuals and its errors on the largest runs and its intervals the law stands."
    assert (
        said({}) == "By its residuals and its errors on the largest runs the law stands; its intervals were not asked."
    )
    assert findings(fit)[0] == standing(fit)


def test_latex_table_is_complete_and_escaped(fit, tmp_path):
    made = fit.to_json()["provenance"] | {"points": r"a_b & 100% #1 {x} ~ ^ \ $.csv"}
    text = latex.parameters_table(fit, made)
    assert r"a\_b \& 100\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$.csv" in text
    assert r"$E + A / N^{\alpha} + B / D^{\beta}$" in text
    low, high = fit.intervals["alpha"]
    assert rf"$\alpha$ & ${fit.parameters['alpha']:.4f}$ & [${low:.4f}$, ${high:.4f}$] \\" in text
    assert re.findall(r"^    \$(.*?)\$ &", text, re.MULTILINE) == ["E", "A", "B", r"\alpha", r"\beta", "a", "b"]
    for environment in ("table", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert re.findall(r"\\(\w+rule)", text) == ["toprule", "midrule", "midrule", "bottomrule"]
    assert re.sub(r"\\[{}]", "", text).count("{") == re.sub(r"\\[{}]", "", text).count("}")
    if shutil.which("pdflatex"):
        body = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "t.tex").write_text(body)
        done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode()[-2000:]


@pytest.mark.parametrize("law", LAWS.values(), ids=lambda law: law.name)
def test_latex_formulas_balance_and_name_no_plain_greek(law):
    made = latex.formula(law.formula)
    assert made.count("{") == made.count("}")
    assert made.startswith("$") == made.endswith("$")
    if made.startswith("$"):
        assert not re.search(r"(?<!\\)\b(alpha|beta|eta)\b", made)
        assert "^" not in re.sub(r"\^\{", "", made) or "(" in made


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.34931, "0.3493"), (12845.6, "12846"), (1.234e-7, r"1.234 \times 10^{-7}"), (0, "0"), (-np.inf, r"-\infty")],
)
def test_latex_numbers(value, text):
    assert latex.number(value) == text


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
@pytest.mark.parametrize("width", [1300, 390])
def test_charts_come_alive_in_a_browser_without_a_network(fit, tmp_path, width):
    report = write_report(fit.with_analyses(**MADE_UP), tmp_path)
    flags = [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},16000",
        "--virtual-time-budget=30000",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
    ]
    done = subprocess.run(
        ["chromium", *flags, report.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    charts = len(re.findall('class="chart', report.read_text()))
    assert done.stdout.count('class="chart live"') == charts > 10
    assert done.stdout.count('class="main-svg"') >= charts
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_report_imports_neither_matplotlib_nor_jax():
    code = "import sys, t5x_like.scaling.report.report\n"
    code += "print({'matplotlib', 'jax'} & {m.split('.')[0] for m in sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
